//! Replay of a deployment bundle: features in, each model's prediction, score, target and position out.
//!
//! The arithmetic is that of the Python package, in the same order of operations: predictions come from the same
//! onnxruntime, and scores, targets and positions are equal to Python's in every bit, given equal predictions.

pub mod account;
pub mod allocations;
pub mod contract;
pub mod features;
pub mod golden;
pub mod hot_path;
pub mod json;
pub mod latency;
pub mod library;
pub mod model;
pub mod onnx;
pub mod replay;
pub mod score;

/// The result of what can fail; an error is one line for the user.
pub type Result<T> = std::result::Result<T, String>;

/// Return an error with a formatted message.
#[macro_export]
macro_rules! fail {
    ($($message:tt)*) => { Err(format!($($message)*)) };
}
