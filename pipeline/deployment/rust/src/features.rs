//! Features from bars, by the library that `python -m pipeline.deployment.feature_library` writes.
//!
//! It is the compiled update of the Python package for the features block of one bundle: the columns have its bits.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::rc::Rc;

use crate::library::Library;
use crate::{Result, fail};

/// The fields of a bar, in the order in which the library takes them.
pub const FIELDS: [&str; 9] =
    ["open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_base", "open_time"];

type GetSize = unsafe extern "C" fn() -> usize;
type GetName = unsafe extern "C" fn(usize) -> *const c_char;
type Start = unsafe extern "C" fn(*mut c_void);
type Update = unsafe extern "C" fn(*mut c_void, *const f64, *mut f32) -> i64;

/// The compiled update.
pub struct FeatureLibrary {
    columns: Vec<String>,
    warm_up_bars: i64,
    state_size: usize,
    start: Start,
    update: Update,
    _library: Library,
}

impl FeatureLibrary {
    /// Return the library in a file.
    ///
    /// # Errors
    /// The file is no library of features.
    pub fn open(file: &Path) -> Result<Rc<FeatureLibrary>> {
        let library = Library::open(file)?;
        // SAFETY: feature_update.h, which is written beside the library, declares these functions with these signatures.
        let (columns, warm_up_bars, state_size, start, update) = unsafe {
            let size = |name: &CStr| library.find(name).map(|it| std::mem::transmute::<*mut c_void, GetSize>(it)());
            let get_name = std::mem::transmute::<*mut c_void, GetName>(library.find(c"features_get_column")?);
            let get_field = std::mem::transmute::<*mut c_void, GetName>(library.find(c"features_get_field")?);
            let read = |name| CStr::from_ptr(name).to_string_lossy().into_owned();
            let fields: Vec<String> = (0..size(c"features_count_fields")?).map(|i| read(get_field(i))).collect();
            if fields != FIELDS {
                return fail!(
                    "{}: its bars have {}; allowed are {}",
                    file.display(),
                    fields.join(", "),
                    FIELDS.join(", ")
                );
            }
            let columns = (0..size(c"features_count_columns")?).map(|i| read(get_name(i))).collect();
            (
                columns,
                size(c"features_count_warm_up_bars")? as i64,
                size(c"features_get_state_size")?,
                std::mem::transmute::<*mut c_void, Start>(library.find(c"features_start")?),
                std::mem::transmute::<*mut c_void, Update>(library.find(c"features_update")?),
            )
        };
        Ok(Rc::new(FeatureLibrary { columns, warm_up_bars, state_size, start, update, _library: library }))
    }

    /// Return the names of the columns, in the order of `FeatureStream::update`.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// The features of one symbol, bar by bar.
pub struct FeatureStream {
    library: Rc<FeatureLibrary>,
    state: Vec<f64>,
    columns: Vec<f32>,
    is_warm: bool,
}

impl FeatureStream {
    /// Return a stream before the first bar of a segment.
    pub fn new(library: &Rc<FeatureLibrary>) -> FeatureStream {
        let state = vec![0.0; library.state_size.div_ceil(size_of::<f64>())];
        let columns = vec![0.0; library.columns.len()];
        let mut stream = FeatureStream { library: Rc::clone(library), state, columns, is_warm: false };
        stream.start();
        stream
    }

    /// Start a segment: what was before it is forgotten.
    pub fn start(&mut self) {
        // SAFETY: the state has the size that the library gave.
        unsafe { (self.library.start)(self.state.as_mut_ptr().cast()) }
    }

    /// Return the columns now that a bar with FIELDS has closed; nothing while the segment warms up.
    ///
    /// The caller has checked the bar: finite prices above 0, in order, without a gap. A field that the bars lack is NaN.
    pub fn update(&mut self, bar: &[f64; FIELDS.len()]) -> Option<&[f32]> {
        // SAFETY: state, bar and columns have the sizes that the library gave.
        let bars_so_far =
            unsafe { (self.library.update)(self.state.as_mut_ptr().cast(), bar.as_ptr(), self.columns.as_mut_ptr()) };
        self.is_warm = bars_so_far > self.library.warm_up_bars;
        self.columns()
    }

    /// Return the columns of the last bar; nothing while the segment warms up.
    pub fn columns(&self) -> Option<&[f32]> {
        self.is_warm.then_some(&self.columns)
    }
}
