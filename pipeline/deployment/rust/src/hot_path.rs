//! From a closed bar and its features to predictions, targets and positions of all models of a bundle.

use std::path::Path;
use std::rc::Rc;

use crate::account::{Account, Bar, Terms, View};
use crate::contract::{Contract, Trading};
use crate::model::{Model, Prediction};
use crate::onnx::Runtime;
use crate::{Result, fail};

/// What the ensemble says at a close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnsembleSignal {
    /// The target position in [-1, 1]; NaN while features warm up.
    pub target: f64,
    /// The ensemble's account as it was known at the close.
    pub seen: View,
}

/// The state of one symbol.
struct Lane {
    last_ms: Option<i64>,
    rows: usize, // with features in this segment
    windows: Vec<Vec<f32>>,
    accounts: Accounts,
}

/// The accounts of one symbol, of each model and of the ensemble.
pub struct Accounts {
    /// In the order of the models.
    pub models: Vec<Account>,
    /// Of the ensemble.
    pub ensemble: Account,
}

/// How a bar stands in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whether bars are missing before it.
    pub is_after_gap: bool,
    /// Whether it is the first of its segment with features.
    pub starts_run: bool,
}

/// The hot path of a bundle. An update allocates nothing of ours.
pub struct HotPath {
    /// The models, in the order of the contract.
    pub models: Vec<Model>,
    /// The latest prediction of each.
    pub predictions: Vec<Prediction>,
    /// The latest signal of the ensemble; its target is NaN where there is none.
    pub ensemble: EnsembleSignal,
    contract: Contract,
    lanes: Vec<Lane>,
}

impl HotPath {
    /// Return the hot path of a contract, whose graphs are in `folder`.
    ///
    /// # Errors
    /// As `Model::open`, or the terms of trading are out of range.
    pub fn open(runtime: &Rc<Runtime>, folder: &Path, contract: Contract) -> Result<HotPath> {
        let models =
            contract.models.iter().map(|spec| Model::open(runtime, folder, spec)).collect::<Result<Vec<_>>>()?;
        let predictions = models
            .iter()
            .map(|model| Prediction { values: vec![0.0; model.spec.output.names.len()], ..Prediction::default() })
            .collect();
        let ensemble = EnsembleSignal { target: f64::NAN, seen: View::default() };
        let mut path = HotPath { models, predictions, ensemble, contract, lanes: Vec::new() };
        path.reset()?;
        Ok(path)
    }

    /// Return to the state before the first bar.
    ///
    /// # Errors
    /// The terms of trading are out of range.
    pub fn reset(&mut self) -> Result<()> {
        let symbols = 0..self.contract.symbols.len();
        self.lanes = symbols.map(|_| self.make_lane()).collect::<Result<_>>()?;
        Ok(())
    }

    fn make_lane(&self) -> Result<Lane> {
        let windows = self.models.iter().map(Model::make_window).collect();
        Ok(Lane { last_ms: None, rows: 0, windows, accounts: make_accounts(&self.contract)? })
    }

    /// Take a closed bar of a symbol, by its place in the contract, and its features; without these nothing predicts.
    ///
    /// # Errors
    /// The bar is not later than the last one, or off the grid, with nothing changed; or a graph fails.
    pub fn update(&mut self, symbol: usize, bar: &Bar, features: Option<&[f32]>) -> Result<Place> {
        let lane = &mut self.lanes[symbol];
        let place = lane.advance(bar, features.is_some(), self.contract.interval_ms)?;
        let symbol = &self.contract.symbols[symbol];
        let mut total = 0.0;
        for (m, (model, prediction)) in self.models.iter_mut().zip(&mut self.predictions).enumerate() {
            if !model.spec.symbols.contains(symbol) {
                continue;
            }
            let account = &mut lane.accounts.models[m];
            account.observe(bar, place.is_after_gap);
            prediction.seen = account.view(place.starts_run);
            prediction.is_full = lane.rows >= model.spec.window.unwrap_or(1);
            prediction.target = f64::NAN;
            if let Some(features) = features {
                model.append(&mut lane.windows[m], features, place.starts_run);
                model.predict(&lane.windows[m], prediction.seen.to_columns(), prediction)?;
            }
            account.order(prediction.target, place.is_after_gap, place.starts_run);
        }
        for (m, weight) in self.contract.ensemble.iter().flatten() {
            let (member, prediction) = (&self.models[*m].spec, &self.predictions[*m]);
            let counts = prediction.is_full && member.symbols.contains(symbol);
            total += weight * if counts { prediction.target } else { 0.0 };
        }
        let has_target = features.is_some() && self.contract.ensemble.is_some();
        let account = &mut lane.accounts.ensemble;
        account.observe(bar, place.is_after_gap);
        self.ensemble.seen = account.view(place.starts_run);
        self.ensemble.target = if has_target { total.clamp(-1.0, 1.0) } else { f64::NAN };
        account.order(self.ensemble.target, place.is_after_gap, place.starts_run);
        Ok(place)
    }
}

impl Lane {
    fn advance(&mut self, bar: &Bar, has_features: bool, interval_ms: i64) -> Result<Place> {
        let step = self.last_ms.map_or(interval_ms, |last| bar.open_time - last);
        if step <= 0 || step % interval_ms != 0 {
            return fail!(
                "open_time is {}, {step} ms after the last bar's; bars come {interval_ms} ms apart",
                bar.open_time
            );
        }
        let is_after_gap = step > interval_ms;
        self.last_ms = Some(bar.open_time);
        self.rows = if is_after_gap { 0 } else { self.rows } + usize::from(has_features);
        Ok(Place { is_after_gap, starts_run: has_features && self.rows == 1 })
    }
}

/// Return the flat accounts of one symbol. An agent has the whole capital, as it learned with; others share it.
///
/// # Errors
/// The terms of trading are out of range.
pub fn make_accounts(contract: &Contract) -> Result<Accounts> {
    let trading = &contract.trading;
    let share = trading.capital.map(|capital| capital / contract.symbols.len() as f64);
    let (alone, shared) = (Terms::new(trading)?, Terms::new(&Trading { capital: share, ..trading.clone() })?);
    let make = |is_agent: bool| Account::new(if is_agent { alone } else { shared }, trading.delay_bars, is_agent);
    let models = contract.models.iter().map(|model| make(model.is_agent)).collect();
    Ok(Accounts { models, ensemble: make(false) })
}
