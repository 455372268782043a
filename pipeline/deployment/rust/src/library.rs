//! Shared libraries, opened at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use crate::{Result, fail};

const NOW: c_int = 2; // RTLD_NOW: a symbol that is missing is an error at once

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(handle: *mut c_void) -> c_int;
    fn dlerror() -> *const c_char;
}

/// A shared library, closed when it is dropped.
pub struct Library {
    handle: *mut c_void,
    name: String,
}

impl Library {
    /// Return the library in a file; the code that it runs when it is opened is trusted.
    ///
    /// # Errors
    /// The file is no library, or needs symbols that there are not.
    pub fn open(file: &Path) -> Result<Library> {
        let name = file.display().to_string();
        let path = CString::new(file.as_os_str().as_encoded_bytes()).map_err(|error| format!("{name}: {error}"))?;
        // SAFETY: the path is a string of C, and the flags are valid.
        let handle = unsafe { dlopen(path.as_ptr(), NOW) };
        if handle.is_null() { fail!("{}", describe_error()) } else { Ok(Library { handle, name }) }
    }

    /// Return the address of a symbol, which is valid as long as the library is open.
    ///
    /// # Errors
    /// The library has no such symbol.
    pub fn find(&self, symbol: &CStr) -> Result<*mut c_void> {
        // SAFETY: the handle is open, and the symbol is a string of C.
        let address = unsafe { dlsym(self.handle, symbol.as_ptr()) };
        if address.is_null() {
            return fail!("{} has no symbol {}", self.name, symbol.to_string_lossy());
        }
        Ok(address)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and closed once.
        unsafe { dlclose(self.handle) };
    }
}

fn describe_error() -> String {
    // SAFETY: the message is a string of this thread's until its next call of these functions.
    unsafe {
        let text = dlerror();
        if text.is_null() { "dlopen failed".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_and_a_symbol_that_is_missing_are_named() {
        assert!(Library::open(Path::new("/no/such/library.so")).err().unwrap().contains("/no/such/library.so"));
        let library = Library::open(Path::new("libc.so.6")).unwrap();
        assert!(library.find(c"strlen").is_ok());
        assert_eq!(library.find(c"no_such_symbol").unwrap_err(), "libc.so.6 has no symbol no_such_symbol");
    }
}
