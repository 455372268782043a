//! From a prediction to a score in [-1, 1], in float32, and on to a target position, in float64.

use crate::{Result, fail};

const MEDIAN: f64 = 0.5;

/// The kind of a model's predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number in the unit of y.
    Value,
    /// A target position in [-1, 1].
    Position,
    /// P(up), neutral at 0.5.
    Probability,
    /// Probabilities of classes, from the lowest to the highest.
    Classes,
    /// Quantiles of y, at ascending levels.
    Quantiles,
    /// Numbers over several horizons, the longest last.
    Horizons,
}

impl Kind {
    /// Return the kind of a name.
    ///
    /// # Errors
    /// There is no such kind.
    pub fn from_name(name: &str) -> Result<Kind> {
        Ok(match name {
            "value" => Kind::Value,
            "position" => Kind::Position,
            "probability" => Kind::Probability,
            "classes" => Kind::Classes,
            "quantiles" => Kind::Quantiles,
            "horizons" => Kind::Horizons,
            _ => {
                return fail!(
                    "kind is {name:?}; it must be value, position, probability, classes, quantiles or horizons"
                );
            }
        })
    }
}

/// What a model predicts, and how that becomes a score.
#[derive(Debug, Clone)]
pub struct Output {
    /// The kind.
    pub kind: Kind,
    /// The names of the numbers of a prediction.
    pub names: Vec<String>,
    /// Whether it says where the price goes; without, there is no score.
    pub has_direction: bool,
    median: (usize, usize, f32), // the levels around the median, and its share of the way between them
}

impl Output {
    /// Return an output; `levels` are those of quantiles.
    ///
    /// # Errors
    /// There are no names, or as many levels as names are missing.
    pub fn new(kind: Kind, names: Vec<String>, levels: Vec<f64>, has_direction: bool) -> Result<Output> {
        if names.is_empty() || (kind == Kind::Quantiles && levels.len() != names.len()) {
            return fail!(
                "{} names and {} levels; give one name or more, and quantiles a level each",
                names.len(),
                levels.len()
            );
        }
        let median = if kind == Kind::Quantiles { find_median(&levels) } else { (0, 0, 0.0) };
        let encloses = kind != Kind::Quantiles || (levels[0] <= MEDIAN && MEDIAN <= levels[levels.len() - 1]);
        Ok(Output { kind, names, has_direction: has_direction && encloses, median })
    }

    /// Return the score of a prediction, one number for each name; nothing without a direction.
    pub fn to_score(&self, prediction: &[f32]) -> Option<f32> {
        let score = match self.kind {
            _ if !self.has_direction => return None,
            Kind::Classes => prediction[prediction.len() - 1] - prediction[0],
            Kind::Probability => 2.0 * prediction[0] - 1.0,
            Kind::Value | Kind::Position | Kind::Horizons => prediction[prediction.len() - 1],
            Kind::Quantiles => {
                let (below, above, share) = self.median;
                prediction[below] + share * (prediction[above] - prediction[below])
            }
        };
        Some(score.clamp(-1.0, 1.0))
    }
}

/// Return the places of the levels around the median, and its share of the way from the lower to the upper one.
fn find_median(levels: &[f64]) -> (usize, usize, f32) {
    let above = levels.partition_point(|level| *level < MEDIAN).min(levels.len() - 1);
    let below = if levels[above] <= MEDIAN || above == 0 { above } else { above - 1 };
    let gap = levels[above] - levels[below];
    (below, above, if gap > 0.0 { ((MEDIAN - levels[below]) / gap) as f32 } else { 0.0 })
}

/// How a score becomes a target position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sizing {
    /// The score is the target.
    Position,
    /// The target is the score in units of this, clipped to [-1, 1].
    Spread(f64),
    /// The fit's scores never varied: the target is 0.
    Flat,
}

impl Sizing {
    /// Return the sizing of a model; `score_std` is the standard deviation of its fit's train scores.
    pub fn new(kind: Kind, score_std: Option<f64>, full_position_std: f64) -> Sizing {
        match score_std.map(|std| std * full_position_std) {
            _ if kind == Kind::Position => Sizing::Position,
            Some(full) if full > 0.0 => Sizing::Spread(full),
            _ => Sizing::Flat,
        }
    }

    /// Return the target position of a score.
    pub fn to_target(self, score: f32) -> f64 {
        match self {
            Sizing::Position => f64::from(score).clamp(-1.0, 1.0),
            Sizing::Spread(full) => (f64::from(score) / full).clamp(-1.0, 1.0),
            Sizing::Flat => 0.0,
        }
    }

    /// Return by how much a target changes where a score changes by `change`.
    pub fn scale(self, change: f64) -> f64 {
        match self {
            Sizing::Position => change,
            Sizing::Spread(full) => change / full,
            Sizing::Flat => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(kind: Kind, levels: &[f64], prediction: &[f32]) -> Option<f32> {
        let names = prediction.iter().map(|number| number.to_string()).collect();
        Output::new(kind, names, levels.to_vec(), true).unwrap().to_score(prediction)
    }

    #[test]
    fn scores_are_the_documented_functions_of_predictions() {
        assert_eq!(score(Kind::Classes, &[], &[0.25, 0.25, 0.5]), Some(0.25));
        assert_eq!(score(Kind::Probability, &[], &[0.75]), Some(0.5));
        assert_eq!(score(Kind::Value, &[], &[-3.0]), Some(-1.0));
        assert_eq!(score(Kind::Position, &[], &[-0.5]), Some(-0.5));
        assert_eq!(score(Kind::Horizons, &[], &[1.0, 0.5, 0.25]), Some(0.25));
        assert_eq!(score(Kind::Quantiles, &[0.1, 0.5, 0.9], &[0.0, 0.25, 1.0]), Some(0.25));
        assert_eq!(score(Kind::Quantiles, &[0.25, 0.75], &[0.0, 0.5]), Some(0.25));
    }

    #[test]
    fn what_has_no_direction_or_does_not_enclose_the_median_has_no_score() {
        assert_eq!(score(Kind::Quantiles, &[0.6, 0.9], &[0.0, 0.5]), None);
        let output = Output::new(Kind::Value, vec!["volatility".into()], vec![], false).unwrap();
        assert_eq!(output.to_score(&[0.5]), None);
    }

    #[test]
    fn targets_are_scores_in_units_of_a_full_position() {
        assert_eq!(Sizing::new(Kind::Value, Some(0.25), 2.0).to_target(0.25), 0.5);
        assert_eq!(Sizing::new(Kind::Value, Some(0.25), 2.0).to_target(0.75), 1.0);
        assert_eq!(Sizing::new(Kind::Value, None, 2.0).to_target(0.75), 0.0);
        assert_eq!(Sizing::new(Kind::Value, Some(0.0), 2.0).to_target(0.75), 0.0);
        assert_eq!(Sizing::new(Kind::Position, None, 2.0).to_target(0.75), 0.75);
        assert!(Sizing::new(Kind::Value, Some(0.25), 2.0).to_target(f32::NAN).is_nan());
    }
}
