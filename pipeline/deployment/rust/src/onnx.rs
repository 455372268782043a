//! A thin, safe binding of onnxruntime's C API: one-thread sessions over fixed buffers.
//!
//! The library is opened at run time, so that nothing has to be linked. `OrtApi` is a table of function pointers that
//! only grows at its end (`onnxruntime_c_api.h`); ENTRY are the places of those used here. Where crates are at hand,
//! the crate `ort` replaces this module: see README.md.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::rc::Rc;

use crate::library::Library;
use crate::{Result, fail};

/// The environment variable with the path of `libonnxruntime.so`.
pub const LIBRARY_VARIABLE: &str = "ORT_LIB";
const API_VERSION: u32 = 17; // the oldest that has all entries; later libraries serve it too
const FLOAT: c_int = 1; // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
const WARNING: c_int = 2; // ORT_LOGGING_LEVEL_WARNING
const ARENA: c_int = 1; // OrtArenaAllocator
const DEFAULT_MEMORY: c_int = 0; // OrtMemTypeDefault

/// An object of the library; only pointers to it are used.
type Object = *mut c_void;
type Status = Object; // null: no error

#[repr(C)]
struct ApiBase {
    get_api: unsafe extern "C" fn(u32) -> *const Entry,
    get_version: unsafe extern "C" fn() -> *const c_char,
}

type Entry = unsafe extern "C" fn();
type Release = unsafe extern "C" fn(Object);

/// Places of functions in `OrtApi`.
mod entry {
    pub const GET_ERROR_MESSAGE: usize = 2;
    pub const CREATE_ENV: usize = 3;
    pub const CREATE_SESSION: usize = 7;
    pub const CREATE_SESSION_OPTIONS: usize = 10;
    pub const SET_INTRA_OP_NUM_THREADS: usize = 24;
    pub const SET_INTER_OP_NUM_THREADS: usize = 25;
    pub const CREATE_TENSOR_WITH_DATA: usize = 49;
    pub const CREATE_CPU_MEMORY_INFO: usize = 69;
    pub const RELEASE_ENV: usize = 92;
    pub const RELEASE_STATUS: usize = 93;
    pub const RELEASE_MEMORY_INFO: usize = 94;
    pub const RELEASE_SESSION: usize = 95;
    pub const RELEASE_VALUE: usize = 96;
    pub const RELEASE_SESSION_OPTIONS: usize = 100;
    pub const RUN_WITH_BINDING: usize = 133;
    pub const CREATE_IO_BINDING: usize = 134;
    pub const RELEASE_IO_BINDING: usize = 135;
    pub const BIND_INPUT: usize = 136;
    pub const BIND_OUTPUT: usize = 137;
}

/// Return the function at an entry of the table, with the signature that the header gives it.
macro_rules! call {
    ($api:expr, $entry:ident, fn($($kind:ty),*) $(-> $output:ty)?; $($argument:expr),*) => {{
        // SAFETY: the table has this entry from API_VERSION on, and the header declares this signature.
        let function: unsafe extern "C" fn($($kind),*) $(-> $output)? =
            unsafe { std::mem::transmute(*$api.table.add(entry::$entry)) };
        // SAFETY: the arguments are live objects of this library, or pointers to buffers and results of ours.
        unsafe { function($($argument),*) }
    }};
}

/// The library, and the environment that all its sessions share.
pub struct Runtime {
    api: Api,
    environment: Owned,
    memory: Owned,
    version: String,
    _library: Library, // closed last
}

impl Runtime {
    /// Return the runtime of the library that ORT_LIB names.
    ///
    /// # Errors
    /// The variable is not set, or the file is no onnxruntime that serves this version of its C API.
    pub fn open() -> Result<Rc<Runtime>> {
        match std::env::var_os(LIBRARY_VARIABLE) {
            Some(file) => Runtime::from_file(Path::new(&file)),
            None => fail!("{LIBRARY_VARIABLE} is not set; set it to the path of libonnxruntime.so, see README.md"),
        }
    }

    /// Return the runtime of a library.
    ///
    /// # Errors
    /// As `open`.
    pub fn from_file(file: &Path) -> Result<Rc<Runtime>> {
        let library = Library::open(file)?;
        let get_base = library.find(c"OrtGetApiBase")?;
        // SAFETY: the header declares `const OrtApiBase* OrtGetApiBase(void)`; the base lives as long as the library.
        let base = unsafe { &*std::mem::transmute::<*mut c_void, extern "C" fn() -> *const ApiBase>(get_base)() };
        // SAFETY: the entries of the base are as declared; the version is a static string.
        let (table, version) = unsafe { ((base.get_api)(API_VERSION), CStr::from_ptr((base.get_version)())) };
        let version = version.to_string_lossy().into_owned();
        if table.is_null() {
            return fail!(
                "{}: onnxruntime {version} does not serve version {API_VERSION} of its C API",
                file.display()
            );
        }
        let api = Api { table };
        let (mut environment, mut memory) = (ptr::null_mut(), ptr::null_mut());
        api.check(call!(api, CREATE_ENV, fn(c_int, *const c_char, *mut Object) -> Status;
            WARNING, c"bundle".as_ptr(), &mut environment))?;
        let environment = Owned::new(api, environment, entry::RELEASE_ENV);
        api.check(call!(api, CREATE_CPU_MEMORY_INFO, fn(c_int, c_int, *mut Object) -> Status;
            ARENA, DEFAULT_MEMORY, &mut memory))?;
        let memory = Owned::new(api, memory, entry::RELEASE_MEMORY_INFO);
        Ok(Rc::new(Runtime { api, environment, memory, version, _library: library }))
    }

    /// Return the version of onnxruntime.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// A graph with its input and its prediction at fixed places in memory: a run allocates nothing of ours.
pub struct Session {
    // fields are dropped in this order: what refers to a thing before the thing
    binding: Owned,
    _values: [Owned; 2],
    session: Owned,
    inputs: Buffer,
    prediction: Buffer,
    runtime: Rc<Runtime>,
}

impl Session {
    /// Return a session of a graph "inputs" (1, …) -> "answer" (1, outputs) of float32, on one thread.
    ///
    /// # Errors
    /// The file is no graph that this library runs, or its input or output has another name.
    pub fn open(runtime: &Rc<Runtime>, graph: &Path, shape: &[usize], outputs: usize) -> Result<Session> {
        let api = runtime.api;
        let name = |error: String| format!("{}: {error}", graph.display());
        let session = open_session(runtime, graph).map_err(name)?;
        let mut binding = ptr::null_mut();
        api.check(call!(api, CREATE_IO_BINDING, fn(Object, *mut Object) -> Status; session.object, &mut binding))?;
        let binding = Owned::new(api, binding, entry::RELEASE_IO_BINDING);
        let inputs = Buffer::new(shape.iter().product());
        let prediction = Buffer::new(outputs);
        let values = [make_tensor(runtime, &inputs, shape)?, make_tensor(runtime, &prediction, &[1, outputs])?];
        api.check(call!(api, BIND_INPUT, fn(Object, *const c_char, Object) -> Status;
            binding.object, c"inputs".as_ptr(), values[0].object))
            .map_err(name)?;
        api.check(call!(api, BIND_OUTPUT, fn(Object, *const c_char, Object) -> Status;
            binding.object, c"answer".as_ptr(), values[1].object))
            .map_err(name)?;
        Ok(Session { binding, _values: values, session, inputs, prediction, runtime: Rc::clone(runtime) })
    }

    /// Return the input, row by row, to be filled before `run`.
    pub fn inputs(&mut self) -> &mut [f32] {
        self.inputs.as_mut()
    }

    /// Return the prediction for what stands in the input.
    ///
    /// # Errors
    /// The graph takes or predicts another shape, or fails.
    pub fn run(&mut self) -> Result<&[f32]> {
        let api = self.runtime.api;
        api.check(call!(api, RUN_WITH_BINDING, fn(Object, *const c_void, Object) -> Status;
            self.session.object, ptr::null(), self.binding.object))?;
        Ok(self.prediction.as_mut())
    }
}

fn open_session(runtime: &Rc<Runtime>, graph: &Path) -> Result<Owned> {
    let (api, mut options, mut session) = (runtime.api, ptr::null_mut(), ptr::null_mut());
    let file = CString::new(graph.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    api.check(call!(api, CREATE_SESSION_OPTIONS, fn(*mut Object) -> Status; &mut options))?;
    let options = Owned::new(api, options, entry::RELEASE_SESSION_OPTIONS);
    api.check(call!(api, SET_INTRA_OP_NUM_THREADS, fn(Object, c_int) -> Status; options.object, 1))?;
    api.check(call!(api, SET_INTER_OP_NUM_THREADS, fn(Object, c_int) -> Status; options.object, 1))?;
    api.check(call!(api, CREATE_SESSION, fn(Object, *const c_char, Object, *mut Object) -> Status;
        runtime.environment.object, file.as_ptr(), options.object, &mut session))?;
    Ok(Owned::new(api, session, entry::RELEASE_SESSION))
}

fn make_tensor(runtime: &Rc<Runtime>, buffer: &Buffer, shape: &[usize]) -> Result<Owned> {
    let (api, mut value) = (runtime.api, ptr::null_mut());
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    api.check(call!(api, CREATE_TENSOR_WITH_DATA,
        fn(Object, *mut c_void, usize, *const i64, usize, c_int, *mut Object) -> Status;
        runtime.memory.object, buffer.data.cast(), buffer.size * size_of::<f32>(), shape.as_ptr(), shape.len(), FLOAT,
        &mut value))?;
    Ok(Owned::new(api, value, entry::RELEASE_VALUE))
}

/// The table of functions.
#[derive(Clone, Copy)]
struct Api {
    table: *const Entry,
}

impl Api {
    /// Return the error that a status describes.
    fn check(self, status: Status) -> Result<()> {
        if status.is_null() {
            return Ok(());
        }
        let text = call!(self, GET_ERROR_MESSAGE, fn(Status) -> *const c_char; status);
        // SAFETY: the message is a string that lives as long as its status.
        let message = unsafe { CStr::from_ptr(text) }.to_string_lossy().replace('\n', " ");
        call!(self, RELEASE_STATUS, fn(Status); status);
        fail!("onnxruntime: {message}")
    }
}

/// An object that is released when it is dropped.
struct Owned {
    object: Object,
    release: Release,
}

impl Owned {
    fn new(api: Api, object: Object, place: usize) -> Owned {
        // SAFETY: `place` is the entry of a release function, which takes the object.
        let release = unsafe { std::mem::transmute::<Entry, Release>(*api.table.add(place)) };
        Owned { object, release }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the object is of the kind that this function releases, and nobody else releases it.
        unsafe { (self.release)(self.object) }
    }
}

/// Numbers at a place in memory that never changes, which the library reads and writes.
struct Buffer {
    data: *mut f32,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Buffer {
        Buffer { data: Box::into_raw(vec![0.0_f32; size].into_boxed_slice()).cast(), size }
    }

    fn as_mut(&mut self) -> &mut [f32] {
        // SAFETY: `data` is our own allocation of this size. The library touches it during `Session::run` alone, which
        // borrows the session mutably, as this does.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.size) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `data` came from a box of a slice of this size; the tensors over it are dropped before.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(self.data, self.size)) });
    }
}
