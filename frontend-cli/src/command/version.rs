//! `kiln version`.

use crate::report::Failure;

pub(super) fn run() -> Result<u8, Failure> {
    super::print(&format!("kiln {}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(0)
}
