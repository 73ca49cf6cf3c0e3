//! What the fuzz targets of bytes from outside hold the engine to.
#![allow(missing_docs, clippy::panic, reason = "a program for kiln's developers")]

/// A database of rpm's: what comes out is no more than what went in.
pub fn rpm_database(bytes: &[u8]) {
    let Ok(found) = crate::attest::rpm_packages(bytes) else { return };
    // A package's name, version and release stand in a header of at least so many bytes.
    assert!(found <= bytes.len() / 56);
}
