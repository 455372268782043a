//! A comparison of the hot path with the golden rows, in two ways.
//!
//! Exactly: scores, targets, accounts and positions, computed here from the golden numbers before them. Within limits:
//! the predictions of the graphs, since golden ones are those of the trained models and onnxruntime sums in another
//! order; and all that the hot path makes of its own predictions, whose decisions must be the same.

use crate::account::Place;
use crate::contract::Contract;
use crate::golden::{ModelRow, Row};
use crate::hot_path::{Accounts, HotPath, Input, make_accounts};
use crate::model::{Model, Prediction};
use crate::{Result, fail};

/// Limits on |graph - trained model|, those of the section `parity` of params.yaml.
pub const LIMITS: Limits = Limits { mean_abs: 1e-6, max_abs: 1e-5, max_relative: 1e-4 };

/// Limits on the difference of predictions.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of the mean difference.
    pub mean_abs: f64,
    /// Of the largest difference.
    pub max_abs: f64,
    /// Of the largest difference in |golden|, except where the difference is below `mean_abs`.
    pub max_relative: f64,
}

/// What was found of one model, or of the ensemble.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The name.
    pub name: String,
    /// Rows with a prediction, or with a target of the ensemble.
    pub rows: usize,
    /// Numbers of predictions.
    pub numbers: usize,
    /// The sum of |graph - golden| over the numbers; NaN where one is not finite.
    pub sum_abs: f64,
    /// The largest |graph - golden|.
    pub max_abs: f64,
    /// The largest |graph - golden| / |golden|, see `Limits::max_relative`.
    pub max_relative: f64,
    /// Numbers that are not equal in every bit.
    pub other_bits: usize,
    /// Whether all numbers must be equal in every bit, as features must.
    pub is_exact: bool,
    /// Rows whose score or target is not exactly that of the golden numbers, or whose window is full elsewhere.
    pub other_targets: usize,
    /// Rows whose account columns are not exactly those of the golden targets.
    pub other_accounts: usize,
    /// Rows whose position is not exactly that of the golden targets.
    pub other_positions: usize,
    /// Rows at which the hot path's own target trades in another direction than the golden one.
    pub flipped: usize,
    /// The largest difference of a position of the hot path from the golden one.
    pub max_position: f64,
}

impl Found {
    /// Return the mean |graph - golden|; NaN without predictions.
    pub fn mean_abs(&self) -> f64 {
        self.sum_abs / self.numbers as f64
    }

    /// Return what is beyond the limits, in words.
    pub fn list_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let limited = [
            ("mean |difference|", self.mean_abs(), LIMITS.mean_abs),
            ("max |difference|", self.max_abs, LIMITS.max_abs),
            ("max relative difference", self.max_relative, LIMITS.max_relative),
        ];
        for (what, value, limit) in limited.into_iter().filter(|_| self.numbers > 0) {
            if value.is_nan() || value > limit {
                faults.push(format!("{}: {what} is {value:.3e}; allowed is {limit:.0e}", self.name));
            }
        }
        if self.is_exact && self.other_bits > 0 {
            faults.push(format!("{}: {} of {} numbers differ; allowed is 0", self.name, self.other_bits, self.numbers));
        }
        let counted = [
            ("scores or targets", self.other_targets),
            ("account columns", self.other_accounts),
            ("positions", self.other_positions),
            ("decisions", self.flipped),
        ];
        for (what, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            faults.push(format!("{}: {what} differ at {count} of {} rows; allowed is 0", self.name, self.rows));
        }
        faults
    }

    /// Compare the numbers of a prediction with the golden ones.
    fn add_values(&mut self, values: &[f32], golden: &[f32]) {
        let floor = LIMITS.mean_abs / LIMITS.max_relative;
        for (value, expected) in values.iter().zip(golden) {
            let (value, expected) = (f64::from(*value), f64::from(*expected));
            let difference = (value - expected).abs();
            self.numbers += 1;
            self.sum_abs += difference;
            self.max_abs = find_max(self.max_abs, difference);
            self.max_relative = find_max(self.max_relative, difference / expected.abs().max(floor));
            self.other_bits += usize::from(value.to_bits() != expected.to_bits());
        }
    }
}

/// What a replay gives the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The golden features.
    FromFeatures,
    /// The bars: a library computes the features.
    FromBars,
}

impl Mode {
    /// Return the input of an update with a row.
    pub fn choose_input(self, row: &Row) -> Input<'_> {
        match self {
            Mode::FromFeatures => Input::Features(row.features.as_deref()),
            Mode::FromBars => Input::Fields(&row.fields),
        }
    }
}

/// The replay of golden rows beside the hot path: accounts that follow the golden targets.
pub struct Replay<'a> {
    contract: &'a Contract,
    lanes: Vec<Accounts>, // one for each symbol
    scratch: Vec<Prediction>,
    mode: Mode,
    features: Found,
    found: Vec<Found>, // one for each model, and of the ensemble
}

impl<'a> Replay<'a> {
    /// Return a replay before the first row.
    ///
    /// # Errors
    /// The terms of trading are out of range.
    pub fn new(contract: &'a Contract, hot_path: &HotPath, mode: Mode) -> Result<Replay<'a>> {
        let lanes = contract.symbols.iter().map(|_| make_accounts(contract)).collect::<Result<_>>()?;
        let names = contract
            .models
            .iter()
            .map(|model| model.name.clone())
            .chain(contract.ensemble.iter().map(|it| it.name.clone()));
        let found = names.map(|name| Found { name, ..Found::default() }).collect();
        let features = Found { name: "features".to_owned(), is_exact: true, ..Found::default() };
        Ok(Replay { contract, lanes, scratch: hot_path.predictions.clone(), mode, features, found })
    }

    /// Update the hot path with a row, and compare.
    ///
    /// # Errors
    /// A graph fails, or a row has a prediction where the hot path has none, or the other way round.
    pub fn take(&mut self, hot_path: &mut HotPath, row: &Row) -> Result<()> {
        let place = hot_path.update(row.symbol, &row.bar, self.mode.choose_input(row))?;
        if self.mode == Mode::FromBars {
            self.compare_features(hot_path.columns(row.symbol), row)?;
        }
        for (m, golden) in row.models.iter().enumerate() {
            let covers = self.contract.models[m].symbols.contains(&self.contract.symbols[row.symbol]);
            if golden.is_some() != (covers && row.features.is_some()) {
                let model = &self.found[m].name;
                return fail!("{model}: open_time {}: golden has a prediction, or features, alone", row.bar.open_time);
            }
            if covers {
                self.compare_model(m, hot_path, row, place)?;
            }
        }
        self.compare_ensemble(hot_path, row, place);
        Ok(())
    }

    /// Return what was found of the features that were computed, of each model, and of the ensemble.
    pub fn finish(self) -> Vec<Found> {
        let features = (self.mode == Mode::FromBars).then_some(self.features);
        features.into_iter().chain(self.found).collect()
    }

    /// Compare the features of a bar that a library computed with the golden ones, which must be the same bits.
    fn compare_features(&mut self, computed: Option<&[f32]>, row: &Row) -> Result<()> {
        match (computed, &row.features) {
            (Some(computed), Some(golden)) => {
                self.features.rows += 1;
                self.features.add_values(computed, golden);
                Ok(())
            }
            (None, None) => Ok(()),
            _ => fail!("features: open_time {}: they warm up in one of golden and library alone", row.bar.open_time),
        }
    }

    fn compare_model(&mut self, m: usize, hot_path: &mut HotPath, row: &Row, place: Place) -> Result<()> {
        let (account, found) = (&mut self.lanes[row.symbol].models[m], &mut self.found[m]);
        let seen = account.observe(&row.bar, place);
        if let (Some(golden), Some(features)) = (&row.models[m], &row.features) {
            let (own, scratch) = (&hot_path.predictions[m], &mut self.scratch[m]);
            found.rows += 1;
            found.flipped += usize::from(
                account.decide(own.target, own.seen.position) != account.decide(golden.target, golden.position),
            );
            found.max_position = find_max(found.max_position, (own.seen.position - golden.position).abs());
            if golden.is_full != own.is_full || !has_golden_target(&hot_path.models[m], golden) {
                found.other_targets += 1;
            }
            if let Some(columns) = golden.account {
                // the graph as the golden row saw it, and not as the hot path's own account has it
                let rows: Vec<f32> = hot_path.models[m].spec.places.iter().map(|place| features[*place]).collect();
                hot_path.models[m].predict(&rows, columns, scratch)?;
                found.add_values(&scratch.values, &golden.values);
                found.other_accounts += usize::from(seen.to_columns().map(f32::to_bits) != columns.map(f32::to_bits));
            } else {
                found.add_values(&own.values, &golden.values);
            }
            found.other_positions += usize::from(seen.position.to_bits() != golden.position.to_bits());
        }
        let target = row.models[m].as_ref().map_or(f64::NAN, |golden| golden.target);
        account.order(target, place);
        Ok(())
    }

    fn compare_ensemble(&mut self, hot_path: &HotPath, row: &Row, place: Place) {
        let Some(ensemble) = &self.contract.ensemble else { return };
        let (account, found) = (&mut self.lanes[row.symbol].ensemble, &mut self.found[self.contract.models.len()]);
        let seen = account.observe(&row.bar, place);
        if let Some((target, position)) = row.ensemble {
            let own = hot_path.ensemble;
            let mut total = 0.0;
            for (at, (m, weight)) in ensemble.weights.iter().enumerate() {
                let golden = row.models[*m].as_ref().filter(|golden| golden.is_full);
                total += weight * golden.map_or(0.0, |golden| ensemble.vote(at, golden.score, golden.target));
            }
            found.rows += 1;
            found.other_targets += usize::from(!is_same(total.clamp(-1.0, 1.0), target));
            found.other_positions += usize::from(seen.position.to_bits() != position.to_bits());
            found.flipped +=
                usize::from(account.decide(own.target, own.seen.position) != account.decide(target, position));
            found.max_position = find_max(found.max_position, (own.seen.position - position).abs());
        }
        account.order(row.ensemble.map_or(f64::NAN, |(target, _)| target), place);
    }
}

/// Return whether score and target of a golden row are those of its own prediction, in every bit.
fn has_golden_target(model: &Model, golden: &ModelRow) -> bool {
    let score = model.spec.output.to_score(&golden.values);
    let target = score.map_or(f64::NAN, |score| model.spec.sizing.to_target(score));
    score.map(f32::to_bits) == golden.score.map(f32::to_bits) && is_same(target, golden.target)
}

/// Return whether two numbers have the same bits, or are both NaN.
fn is_same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Return the larger of both, NaN where either is.
fn find_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(values: &[f32], golden: &[f32]) -> Found {
        let mut found = Found { name: "net".into(), ..Found::default() };
        found.add_values(values, golden);
        found
    }

    #[test]
    fn differences_within_the_limits_are_no_fault() {
        let found = compare(&[0.5, 1e-7, -0.25], &[0.5, 0.0, -0.25]);
        assert_eq!((found.numbers, found.other_bits), (3, 1));
        assert!((found.max_abs - 1e-7).abs() < 1e-12 && (found.max_relative - 1e-5).abs() < 1e-10);
        assert!(found.list_faults().is_empty());
        assert_eq!(Found { is_exact: true, ..found }.list_faults(), ["net: 1 of 3 numbers differ; allowed is 0"]);
    }

    #[test]
    fn each_limit_is_a_fault_of_its_own() {
        let small = [0.0; 99].map(|zero: f32| zero);
        let mut values = small.to_vec();
        values.push(2e-5);
        let found = compare(&values, &[0.0; 100]);
        assert_eq!(found.list_faults().len(), 2); // max and relative
        assert_eq!(compare(&[1.0], &[1.0 - 3e-6]).list_faults().len(), 1); // mean
        assert_eq!(compare(&[f32::NAN, 0.0], &[0.0, 0.0]).list_faults().len(), 3);
    }

    #[test]
    fn every_difference_of_what_must_be_exact_is_a_fault() {
        let counted = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)];
        for (other_targets, other_accounts, other_positions, flipped) in counted {
            let found = Found { rows: 5, other_targets, other_accounts, other_positions, flipped, ..Found::default() };
            assert_eq!(found.list_faults().len(), 1);
        }
    }
}
