//! A line for each request, for those who look for a mistake.

use crate::wire::op::Op;
use acetate_sys::Errno;
use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// The environment variable that asks for a trace: `1` for standard error, else the path of a file to append to.
pub(crate) const VARIABLE: &str = "ACETATE_TRACE";

/// Where the lines go.
pub(crate) struct Trace(Mutex<Box<dyn Write + Send>>);

impl Trace {
    /// The trace that the environment asks for.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn from_environment() -> io::Result<Option<Trace>> {
        std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(Trace::to).transpose()
    }

    fn to(place: OsString) -> io::Result<Trace> {
        let out: Box<dyn Write + Send> = if place == "1" {
            Box::new(io::stderr())
        } else {
            Box::new(File::options().append(true).create(true).open(place)?)
        };
        Ok(Trace(Mutex::new(out)))
    }

    /// Notes a request: operation, node, result and how long it took.
    pub(crate) fn note(
        &self,
        opcode: u32,
        node: u64,
        result: Result<usize, (Errno, String)>,
        took: Duration,
    ) {
        let op = Op::from_number(opcode).map_or_else(|| opcode.to_string(), |op| format!("{op:?}"));
        let result = match result {
            Ok(length) => format!("{length} bytes"),
            Err((errno, why)) => format!("{errno:?} {why}"),
        };
        let line = format!("{op} node {node}: {result}, {} us\n", took.as_micros());
        // A trace that cannot be written must not disturb what it watches.
        let _unwritten = self.0.lock().write_all(line.as_bytes());
    }
}
