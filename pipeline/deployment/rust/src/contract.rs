//! The contract of a bundle: what each graph takes and predicts, and how its score is traded.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::json::Value;
use crate::score::{Kind, Output, Sizing};
use crate::{Result, fail};

const SCHEMAS: [&str; 2] = ["1.", "2."]; // 2 may have ensemble.references; later minor versions only add keys
/// The columns of its own position that an agent takes, after the features.
pub const ACCOUNT_COLUMNS: [&str; 3] = ["position", "unrealized", "log_bars_since_entry"];

/// What a replay needs of `contract.json`.
#[derive(Debug, Clone)]
pub struct Contract {
    /// The length of a bar.
    pub interval_ms: i64,
    /// The symbols of the bars.
    pub symbols: Vec<String>,
    /// The features, in the order of the golden rows.
    pub columns: Vec<String>,
    /// The models, in the order of the contract.
    pub models: Vec<ModelSpec>,
    /// The weighted sum of targets.
    pub ensemble: Option<Ensemble>,
    /// The rules and costs of trading.
    pub trading: Trading,
}

/// One model of a bundle.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The name under which the golden columns stand.
    pub name: String,
    /// The file of the graph in the folder of the bundle.
    pub graph: String,
    /// The places of its inputs among the features.
    pub places: Vec<usize>,
    /// Whether it takes the three columns of its account too.
    pub is_agent: bool,
    /// The bars of its window; nothing for a single row.
    pub window: Option<usize>,
    /// The symbols that it predicts.
    pub symbols: Vec<String>,
    /// What its predictions are.
    pub output: Output,
    /// How its score becomes a target.
    pub sizing: Sizing,
}

/// The ensemble of a bundle.
#[derive(Debug, Clone)]
pub struct Ensemble {
    /// The name under which its golden columns stand.
    pub name: String,
    /// The weight of each model, by its place among the models, in the order of the sum.
    pub weights: Vec<(usize, f64)>,
    /// Of each weight the scores, ascending, among which its model's score is ranked; none where targets are summed.
    pub references: Vec<Vec<f64>>,
}

impl Ensemble {
    /// Return what the model of weight `at` adds to the sum: its target, or the rank of its score in [-1, 1].
    #[must_use]
    pub fn vote(&self, at: usize, score: Option<f32>, target: f64) -> f64 {
        let Some(reference) = self.references.get(at) else { return target };
        let score = score.map_or(f64::NAN, f64::from);
        if score.is_nan() {
            return score;
        }
        let count: usize = reference.iter().map(|each| usize::from(*each < score) + usize::from(*each <= score)).sum();
        count as f64 / reference.len() as f64 - 1.0
    }
}

/// The section `trading` of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Trading {
    /// Scores of this many standard deviations are a full position.
    pub full_position_std: f64,
    /// The position changes only to targets further than this from it.
    pub no_trade_band: f64,
    /// Bars between a decision and its fill, beyond the next open.
    pub delay_bars: usize,
    /// Whether negative targets are flat.
    pub long_only: bool,
    /// Of the value traded, each side.
    pub fee_bps: f64,
    /// By how much a fill is worse than the open.
    pub slippage_bps: f64,
    /// Per year, of the value that is short.
    pub borrow_rate: f64,
    /// Of a symbol, in the quote currency.
    pub capital: Option<f64>,
    /// An order's largest share of a bar's quote volume.
    pub max_participation: Option<f64>,
}

impl Contract {
    /// Return the contract of a folder, once `SHA256SUMS` has been verified.
    ///
    /// # Errors
    /// A file differs from its digest or has none, or the contract has a key or value that a replay cannot follow.
    pub fn load(folder: &Path) -> Result<Contract> {
        let listed = verify_digests(folder)?;
        let file = folder.join("contract.json");
        let contract = Value::parse(&read_text(&file)?)
            .and_then(|value| Contract::from_json(&value))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let graphs = contract.models.iter().map(|model| model.graph.as_str());
        for name in graphs.chain(["contract.json", "golden.csv"]) {
            if !listed.contains(name) {
                return fail!("{}: SHA256SUMS has no digest of {name}; build the bundle again", folder.display());
            }
        }
        Ok(contract)
    }

    /// Return the contract that JSON describes.
    ///
    /// # Errors
    /// As `load`; says which key.
    pub fn from_json(value: &Value) -> Result<Contract> {
        let version = value.get("schema_version")?.as_text()?;
        if !SCHEMAS.iter().any(|known| version.starts_with(known)) {
            return fail!("schema_version is {version:?}; this replay reads {}x", SCHEMAS.join("x and "));
        }
        let bars = value.get("bars")?;
        if bars.get("calendar")?.as_optional().map(|it| it.get("exchange")).transpose()?.is_some_and(is_some) {
            return fail!("bars.calendar has an exchange; this replay knows no sessions: use the Python hot path");
        }
        let columns = value.get("columns")?.as_texts()?;
        let trading = within("trading", value.get("trading"), read_trading)?;
        let models = value.get("models")?.as_map()?.iter();
        let models = models
            .map(|(name, model)| {
                within(name, Ok(model), |it| read_model(name, it, &columns, trading.full_position_std))
            })
            .collect::<Result<Vec<_>>>()?;
        let ensemble = match value.get("ensemble")?.as_optional() {
            Some(block) => Some(within("ensemble", Ok(block), |it| read_ensemble(it, &models))?),
            None => None,
        };
        let interval_ms = within("bars.interval_ms", bars.get("interval_ms"), Value::as_count)? as i64;
        let symbols = within("bars.symbols", bars.get("symbols"), Value::as_texts)?;
        Ok(Contract { interval_ms, symbols, columns, models, ensemble, trading })
    }
}

fn is_some(value: &Value) -> bool {
    value.as_optional().is_some()
}

/// Return what `read` makes of a value, with the name of the key in front of an error.
fn within<T>(key: &str, value: Result<&Value>, read: impl FnOnce(&Value) -> Result<T>) -> Result<T> {
    value.and_then(read).map_err(|error| format!("{key}: {error}"))
}

fn read_trading(block: &Value) -> Result<Trading> {
    let number = |key: &str| within(key, block.get(key), Value::as_number);
    let optional = |key: &str| match block.get(key)?.as_optional() {
        Some(value) => within(key, Ok(value), Value::as_number).map(Some),
        None => Ok(None),
    };
    Ok(Trading {
        full_position_std: number("full_position_std")?,
        no_trade_band: number("no_trade_band")?,
        delay_bars: within("delay_bars", block.get("delay_bars"), Value::as_count)?,
        long_only: within("long_only", block.get("long_only"), Value::as_bool)?,
        fee_bps: number("fee_bps")?,
        slippage_bps: number("slippage_bps")?,
        borrow_rate: number("borrow_rate")?,
        capital: optional("capital")?,
        max_participation: optional("max_participation")?,
    })
}

fn read_model(name: &str, block: &Value, features: &[String], full_position_std: f64) -> Result<ModelSpec> {
    let graph = block.get("graph")?.as_text()?.to_owned();
    if graph.contains('/') {
        return fail!("graph is {graph:?}; it must be a file in the folder of the bundle");
    }
    let find = |column: &String| match features.iter().position(|each| each == column) {
        Some(place) => Ok(place),
        None => fail!("columns has {column:?}, which is not among the columns of the bundle"),
    };
    let account = block.get("account_columns")?.as_texts()?;
    if !account.is_empty() && account != ACCOUNT_COLUMNS {
        return fail!("account_columns are {account:?}; they must be {ACCOUNT_COLUMNS:?}, or none");
    }
    let window = block.get("window")?.as_optional().map(Value::as_count).transpose()?;
    if window == Some(0) || (window.is_some() && !account.is_empty()) {
        return fail!("window is {window:?}; it must be null, or 1 or more for a model without account_columns");
    }
    let output = within("output", block.get("output"), read_output)?;
    let score_std = block.get("score_std")?.as_optional().map(Value::as_number).transpose()?;
    Ok(ModelSpec {
        name: name.to_owned(),
        graph,
        places: block.get("columns")?.as_texts()?.iter().map(find).collect::<Result<_>>()?,
        is_agent: !account.is_empty(),
        window,
        symbols: block.get("symbols")?.as_texts()?,
        sizing: Sizing::new(output.kind, score_std, full_position_std),
        output,
    })
}

fn read_output(block: &Value) -> Result<Output> {
    let kind = Kind::from_name(block.get("kind")?.as_text()?)?;
    let levels = block.get("levels")?.as_list()?.iter().map(Value::as_number).collect::<Result<Vec<_>>>()?;
    Output::new(kind, block.get("names")?.as_texts()?, levels, block.get("has_direction")?.as_bool()?)
}

fn read_ensemble(block: &Value, models: &[ModelSpec]) -> Result<Ensemble> {
    let find = |(name, weight): &(String, Value)| match models.iter().position(|model| model.name == *name) {
        Some(place) => Ok((place, within(name, Ok(weight), Value::as_number)?)),
        None => fail!("weights has {name:?}, which is not among the models"),
    };
    let weights: Vec<(usize, f64)> = block.get("weights")?.as_map()?.iter().map(find).collect::<Result<_>>()?;
    let references = match block.get("references").ok().and_then(Value::as_optional) {
        Some(found) => weights.iter().map(|(m, _)| read_reference(found, &models[*m].name)).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    Ok(Ensemble { name: block.get("name")?.as_text()?.to_owned(), weights, references })
}

fn read_reference(references: &Value, model: &str) -> Result<Vec<f64>> {
    let found = references.get(model)?.as_list()?.iter().map(Value::as_number).collect::<Result<Vec<_>>>()?;
    if found.is_empty() {
        return fail!("references.{model} is empty; it must have a score or more");
    }
    Ok(found)
}

/// Return the names of the files in `SHA256SUMS` of a folder, all of which have the digests that stand there.
fn verify_digests(folder: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(folder)
        .output()
        .map_err(|error| format!("{}: sha256sum does not run in this folder: {error}", folder.display()))?;
    if !output.status.success() {
        let found = String::from_utf8_lossy(&output.stdout).replace('\n', "; ");
        let fault = String::from_utf8_lossy(&output.stderr).replace('\n', "; ");
        return fail!("{}: SHA256SUMS does not hold: {found}{fault}build the bundle again", folder.display());
    }
    let lines = read_text(&folder.join("SHA256SUMS"))?;
    Ok(lines.lines().filter_map(|line| line.get(66..)).map(str::to_owned).collect())
}

/// Return the text of a file.
///
/// # Errors
/// It cannot be read; names it.
pub fn read_text(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}
