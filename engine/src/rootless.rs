//! Builds of an ordinary user: the one call that a program makes first, and what this machine has for it.
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // First of all, while there is one thread. For root it does nothing.
//!     kiln::rootless::enter()?;
//!     kiln::Build::from_context(".").tag("name").run()?;
//!     Ok(())
//! }
//! ```

pub use kiln_sandbox::{
    Finding, Privileges, SingleIdReason, State, UserNamespaceError, enter_user_namespace as enter, examine,
};
