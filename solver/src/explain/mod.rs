//! Why a step ran: what it was made of, and what of that was another way before.
//!
//! A [`Facts`] says in words and fingerprints what a step key is made of. It is written down when a step runs (a step
//! that is found costs nothing), and two of them are compared when somebody asks. The comparison is pure; which
//! earlier step is the one to compare with is the caller's choice.

mod cause;
mod difference;
mod facts;

pub use cause::{Cause, NoCacheBy};
pub use difference::{Difference, FileChange, differences};
pub use facts::{Facts, FileFact};
pub(crate) use facts::{fingerprint, short};
