//! The golden rows of a bundle: bars, features, and what Python's models, scores, targets and accounts made of them.

use std::path::Path;
use std::str::FromStr;

use crate::account::Bar;
use crate::contract::{ACCOUNT_COLUMNS, Contract, Ensemble, ModelSpec, read_text};
use crate::features::FIELDS;
use crate::{Result, fail};

/// One golden row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The place of its symbol in the contract.
    pub symbol: usize,
    /// The closed bar, as accounts take it.
    pub bar: Bar,
    /// Its FIELDS, as features take them; NaN where the bars lack one.
    pub fields: [f64; FIELDS.len()],
    /// In the order of the contract; nothing while they warm up.
    pub features: Option<Vec<f32>>,
    /// Of each model, in the order of the contract; nothing while features warm up, or for another symbol.
    pub models: Vec<Option<ModelRow>>,
    /// Target and position of the ensemble; nothing without one, or while features warm up.
    pub ensemble: Option<(f64, f64)>,
}

/// What one model gave at a row.
#[derive(Debug, Clone)]
pub struct ModelRow {
    /// The numbers of its prediction.
    pub values: Vec<f32>,
    /// Nothing where its predictions have none.
    pub score: Option<f32>,
    /// NaN without a score.
    pub target: f64,
    /// Whether its window had bars of the segment alone.
    pub is_full: bool,
    /// The weight that its account held at the close.
    pub position: f64,
    /// The columns of its account that an agent was given.
    pub account: Option<[f32; 3]>,
}

/// Return the rows of a bundle's `golden.csv`.
///
/// # Errors
/// A column is missing, or a cell is not numeric; names file, row and column.
pub fn read_rows(folder: &Path, contract: &Contract) -> Result<Vec<Row>> {
    let file = folder.join("golden.csv");
    let rows = parse_rows(&read_text(&file)?, contract).map_err(|error| format!("{}: {error}", file.display()))?;
    if rows.iter().all(|row| row.features.is_none()) {
        return fail!("{}: no row has features; build the bundle again", file.display());
    }
    Ok(rows)
}

/// Return the rows of a text of comma-separated values with a header.
///
/// # Errors
/// As `read_rows`.
pub fn parse_rows(text: &str, contract: &Contract) -> Result<Vec<Row>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    let places = Places::find(&header, contract)?;
    let mut rows = Vec::new();
    for (i, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        if cells.len() != header.len() {
            return fail!("row {}: it has {} cells, the header {}", i + 1, cells.len(), header.len());
        }
        let row = Cells { header: &header, cells: &cells }.read_row(&places, contract);
        rows.push(row.map_err(|error| format!("row {}: {error}", i + 1))?);
    }
    Ok(rows)
}

/// The columns that are read, by their place in the header.
struct Places {
    symbol: usize,
    open_time: usize,
    fields: [Option<usize>; FIELDS.len()],
    features: Vec<usize>,
    models: Vec<ModelPlaces>,
    ensemble: Option<[usize; 2]>, // target and position
}

struct ModelPlaces {
    values: Vec<usize>,
    own: [usize; 4], // score, target, is_full, position
    account: Option<[usize; 3]>,
}

impl Places {
    fn find(header: &[&str], contract: &Contract) -> Result<Places> {
        let find = |name: &str| match header.iter().position(|column| *column == name) {
            Some(place) => Ok(place),
            None => fail!("there is no column {name}"),
        };
        let find_model = |model: &ModelSpec| {
            let name = &model.name;
            let columns = |keys: [&str; 3]| -> Result<[usize; 3]> {
                let [a, b, c] = keys.map(|key| find(&format!("{name}.account.{key}")));
                Ok([a?, b?, c?])
            };
            let [score, target, is_full, position] =
                ["score", "target", "is_full", "position"].map(|key| find(&format!("{name}.{key}")));
            let values = model.output.names.iter().map(|key| find(&format!("{name}.prediction.{key}")));
            Ok(ModelPlaces {
                values: values.collect::<Result<_>>()?,
                own: [score?, target?, is_full?, position?],
                account: if model.is_agent { Some(columns(ACCOUNT_COLUMNS)?) } else { None },
            })
        };
        let find_ensemble = |ensemble: &Ensemble| -> Result<[usize; 2]> {
            let name = &ensemble.name;
            Ok([find(&format!("{name}.target"))?, find(&format!("{name}.position"))?])
        };
        Ok(Places {
            symbol: find("symbol")?,
            open_time: find("open_time")?,
            fields: FIELDS.map(|name| find(name).ok()),
            features: contract.columns.iter().map(|name| find(name)).collect::<Result<_>>()?,
            models: contract.models.iter().map(find_model).collect::<Result<_>>()?,
            ensemble: contract.ensemble.as_ref().map(find_ensemble).transpose()?,
        })
    }
}

/// One row as text.
struct Cells<'a> {
    header: &'a [&'a str],
    cells: &'a [&'a str],
}

impl Cells<'_> {
    fn read_row(&self, places: &Places, contract: &Contract) -> Result<Row> {
        let name = self.cells[places.symbol];
        let Some(symbol) = contract.symbols.iter().position(|symbol| symbol == name) else {
            return fail!("symbol is {name:?}; the contract has {}", contract.symbols.join(", "));
        };
        let mut fields = [f64::NAN; FIELDS.len()];
        for (field, place) in fields.iter_mut().zip(places.fields) {
            *field = place.map_or(Ok(f64::NAN), |place| self.read(place))?;
        }
        let [open, _, _, close, volume, quote_volume, ..] = fields;
        let quote_volume = if quote_volume.is_nan() { volume * close } else { quote_volume };
        let bar = Bar { open_time: self.read(places.open_time)?, open, close, volume, quote_volume };
        if [open, close, volume].iter().any(|number| !number.is_finite()) {
            return fail!("open is {open}, close {close}, volume {volume}; they must be there, and finite");
        }
        let features = if places.features.iter().all(|place| self.cells[*place].is_empty()) {
            None
        } else {
            Some(places.features.iter().map(|place| self.read(*place)).collect::<Result<_>>()?)
        };
        let models = places.models.iter().map(|model| self.read_model(model)).collect::<Result<_>>()?;
        let ensemble = match places.ensemble {
            Some([target, position]) if !self.cells[target].is_empty() => {
                Some((self.read(target)?, self.read(position)?))
            }
            _ => None,
        };
        Ok(Row { symbol, bar, fields, features, models, ensemble })
    }

    /// Return what a model gave; nothing where it has no prediction.
    fn read_model(&self, places: &ModelPlaces) -> Result<Option<ModelRow>> {
        if places.values.iter().all(|place| self.cells[*place].is_empty()) {
            return Ok(None);
        }
        let [score, target, is_full, position] = places.own;
        let account = places.account.map(|[a, b, c]| Ok::<_, String>([self.read(a)?, self.read(b)?, self.read(c)?]));
        Ok(Some(ModelRow {
            values: places.values.iter().map(|place| self.read(*place)).collect::<Result<_>>()?,
            score: self.read_optional(score)?,
            target: self.read_optional(target)?.unwrap_or(f64::NAN),
            is_full: self.read::<f64>(is_full)? == 1.0,
            position: self.read(position)?,
            account: account.transpose()?,
        }))
    }

    fn read<T: FromStr>(&self, place: usize) -> Result<T> {
        let cell = self.cells[place];
        cell.parse().map_err(|_| format!("{} is {cell:?}; it must be a number", self.header[place]))
    }

    fn read_optional<T: FromStr>(&self, place: usize) -> Result<Option<T>> {
        if self.cells[place].is_empty() { Ok(None) } else { self.read(place).map(Some) }
    }
}
