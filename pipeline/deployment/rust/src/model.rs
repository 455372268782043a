//! One model: its graph, its inputs, and its prediction as score and target.

use std::path::Path;
use std::rc::Rc;

use crate::Result;
use crate::account::View;
use crate::contract::{ACCOUNT_COLUMNS, ModelSpec};
use crate::onnx::{Runtime, Session};

/// What a model predicts at a close, and the position that its own account holds there.
#[derive(Debug, Clone, Default)]
pub struct Prediction {
    /// The numbers of the graph, one for each name of the output.
    pub values: Vec<f32>,
    /// In [-1, 1]; nothing where predictions of this kind have none.
    pub score: Option<f32>,
    /// The target position in [-1, 1]; NaN without a score.
    pub target: f64,
    /// Whether the window has bars of this segment alone, none repeated.
    pub is_full: bool,
    /// The model's account as it was known at the close.
    pub seen: View,
}

/// A model of a bundle, ready to predict.
pub struct Model {
    /// Its part of the contract.
    pub spec: ModelSpec,
    session: Session,
}

impl Model {
    /// Return a model whose graph is in the folder of a bundle.
    ///
    /// # Errors
    /// As `Session::open`.
    pub fn open(runtime: &Rc<Runtime>, folder: &Path, spec: &ModelSpec) -> Result<Model> {
        let width = spec.places.len() + if spec.is_agent { ACCOUNT_COLUMNS.len() } else { 0 };
        let shape = [&[1], spec.window.as_slice(), &[width]].concat();
        let session = Session::open(runtime, &folder.join(&spec.graph), &shape, spec.output.names.len())?;
        Ok(Model { spec: spec.clone(), session })
    }

    /// Return the numbers of an empty window, of one row without a window.
    pub fn make_window(&self) -> Vec<f32> {
        vec![0.0; self.spec.window.unwrap_or(1) * self.spec.places.len()]
    }

    /// Append the features of a bar to a window, as its newest row, or as all rows where features `start`.
    pub fn append(&self, window: &mut [f32], features: &[f32], start: bool) {
        let width = self.spec.places.len();
        let older = window.len() - width;
        window.copy_within(width.., 0);
        for (cell, place) in window[older..].iter_mut().zip(&self.spec.places) {
            *cell = features[*place];
        }
        for begin in (0..if start { older } else { 0 }).step_by(width.max(1)) {
            window.copy_within(older.., begin);
        }
    }

    /// Fill a prediction's values, score and target; an agent also takes the columns of its `account`.
    ///
    /// # Errors
    /// As `Session::run`.
    pub fn predict(&mut self, window: &[f32], account: [f32; 3], into: &mut Prediction) -> Result<()> {
        let (rows, own) = self.session.inputs().split_at_mut(window.len());
        rows.copy_from_slice(window);
        own.copy_from_slice(&account[..own.len()]);
        let name = |error: String| format!("{}: {error}", self.spec.graph);
        into.values.copy_from_slice(self.session.run().map_err(name)?);
        into.score = self.spec.output.to_score(&into.values);
        into.target = into.score.map_or(f64::NAN, |score| self.spec.sizing.to_target(score));
        Ok(())
    }
}
