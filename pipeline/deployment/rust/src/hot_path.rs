//! From a closed bar and its features to predictions, targets and positions of all models of a bundle.

use std::path::Path;
use std::rc::Rc;

use crate::account::{Account, Bar, Place, Terms, View};
use crate::contract::{Contract, Trading};
use crate::features::{FIELDS, FeatureLibrary, FeatureStream};
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
    stream: Option<FeatureStream>,
}

/// What an update computes from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The features of the bar, in the order of the contract; nothing while they warm up.
    Features(Option<&'a [f32]>),
    /// The FIELDS of the bar: its features come from a library, see `HotPath::compute_features`.
    Fields(&'a [f64; FIELDS.len()]),
}

/// The accounts of one symbol, of each model and of the ensemble.
pub struct Accounts {
    /// In the order of the models.
    pub models: Vec<Account>,
    /// Of the ensemble.
    pub ensemble: Account,
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
    library: Option<Rc<FeatureLibrary>>,
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
        let mut path = HotPath { models, predictions, ensemble, contract, lanes: Vec::new(), library: None };
        path.reset()?;
        Ok(path)
    }

    /// Compute features from bars by a library from now on, from the state before the first bar.
    ///
    /// # Errors
    /// It has other columns than the contract.
    pub fn compute_features(&mut self, library: Rc<FeatureLibrary>) -> Result<()> {
        if library.columns() != self.contract.columns {
            return fail!("the library of features has other columns than the contract; write it for this bundle");
        }
        self.library = Some(library);
        self.reset()
    }

    /// Return the columns that a library computed of a symbol's last bar; nothing while they warm up, or without one.
    pub fn columns(&self, symbol: usize) -> Option<&[f32]> {
        self.lanes[symbol].stream.as_ref().and_then(FeatureStream::columns)
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
        let stream = self.library.as_ref().map(FeatureStream::new);
        Ok(Lane { last_ms: None, rows: 0, windows, accounts: make_accounts(&self.contract)?, stream })
    }

    /// Take a closed bar of a symbol, by its place in the contract. Without features nothing predicts.
    ///
    /// # Errors
    /// The bar is not later than the last one, or off the grid, with nothing changed; or a graph fails.
    pub fn update(&mut self, symbol: usize, bar: &Bar, input: Input<'_>) -> Result<Place> {
        let lane = &mut self.lanes[symbol];
        let is_after_gap = lane.advance(bar, self.contract.interval_ms)?;
        let features = match (input, &mut lane.stream) {
            (Input::Features(features), _) => features,
            (Input::Fields(fields), Some(stream)) => {
                if is_after_gap {
                    stream.start();
                }
                stream.update(fields)
            }
            (Input::Fields(_), None) => return fail!("there is no library of features; call compute_features first"),
        };
        lane.rows += usize::from(features.is_some());
        let place = Place { is_after_gap, starts_run: features.is_some() && lane.rows == 1 };
        let symbol = &self.contract.symbols[symbol];
        for (m, (model, prediction)) in self.models.iter_mut().zip(&mut self.predictions).enumerate() {
            if !model.spec.symbols.contains(symbol) {
                continue;
            }
            let account = &mut lane.accounts.models[m];
            prediction.seen = account.observe(bar, place);
            prediction.is_full = lane.rows >= model.spec.window.unwrap_or(1);
            prediction.target = f64::NAN;
            if let Some(features) = features {
                model.append(&mut lane.windows[m], features, place.starts_run);
                model.predict(&lane.windows[m], prediction.seen.to_columns(), prediction)?;
            }
            account.order(prediction.target, place);
        }
        let mut total = 0.0;
        if let Some(ensemble) = &self.contract.ensemble {
            for (at, (m, weight)) in ensemble.weights.iter().enumerate() {
                let (member, prediction) = (&self.models[*m].spec, &self.predictions[*m]);
                let counts = features.is_some() && prediction.is_full && member.symbols.contains(symbol);
                total += weight * if counts { ensemble.vote(at, prediction.score, prediction.target) } else { 0.0 };
            }
        }
        let has_target = features.is_some() && self.contract.ensemble.is_some();
        self.ensemble.target = if has_target { total.clamp(-1.0, 1.0) } else { f64::NAN };
        self.ensemble.seen = lane.accounts.ensemble.observe(bar, place);
        lane.accounts.ensemble.order(self.ensemble.target, place);
        Ok(place)
    }
}

impl Lane {
    /// Take the time of a bar; return whether bars are missing before it.
    fn advance(&mut self, bar: &Bar, interval_ms: i64) -> Result<bool> {
        let step = self.last_ms.map_or(interval_ms, |last| bar.open_time - last);
        if step <= 0 || step % interval_ms != 0 {
            return fail!(
                "open_time is {}, {step} ms after the last bar's; bars come {interval_ms} ms apart",
                bar.open_time
            );
        }
        self.last_ms = Some(bar.open_time);
        let is_after_gap = step > interval_ms;
        if is_after_gap {
            self.rows = 0;
        }
        Ok(is_after_gap)
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
