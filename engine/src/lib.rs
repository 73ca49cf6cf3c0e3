//! kiln, the Dockerfile build engine, as a library.
//!
//! ```no_run
//! # fn main() -> Result<(), kiln::Error> {
//! let image = kiln::Build::from_context(".")
//!     .file("Dockerfile.dev")
//!     .arg("UID", "1000")
//!     .tag("name")
//!     .on_event(|event| println!("{event:?}"))
//!     .run()?;
//! println!("{}", image.config_digest);
//! # Ok(())
//! # }
//! ```
//!
//! Here: builds, their outputs, the commands on images and containers. Not here: displays and arguments (`kiln-cli`).
#![forbid(unsafe_code)]
// An error ends a build or command: what it says matters, what it weighs does not.
#![allow(clippy::result_large_err)]

mod assemble;
mod attest;
mod awaited;
mod bases;
mod build;
mod cache_mounts;
mod caches;
mod check;
mod context;
mod daemon;
mod destination;
mod devices;
mod differences;
mod dockerfile_name;
mod epoch;
mod error;
mod explain;
mod forecast;
mod frontend;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod history;
pub mod images;
mod lock;
mod output;
mod permission;
mod platforms;
mod proxies;
mod push;
pub mod rootless;
pub mod run;
mod session;
mod ssh;
pub mod storage;
mod timeout;
mod volumes;
mod whole_file;

pub use attest::{Attestations, Provenance, ProvenanceMode, Sbom, SlsaVersion};
pub use build::{
    Build, BuildResult, CancelHandle, ContextSource, DockerTarget, DockerfileSource, OutputSpec,
    SecretSource, default_root,
};
pub use check::{CheckReport, Finding, OutlineReport, Target, TargetsReport};
pub use destination::check_file;
pub use differences::{Change, FileDifference, StepDifference};
pub use dockerfile_name::DockerfileName;
pub use error::{Error, ErrorKind, ErrorLabel};
pub use explain::Explanation;
pub use forecast::{ForecastReport, ForecastStep};
pub use kiln_cache::{Cost, Details, ImageRecord, Store, StoreError};
pub use kiln_image::http::Retry;
pub use kiln_image::registry::{
    Kept, Login, Pushed, Registry, RegistryConfig, RegistryError, Server, TokenServer, Verify,
};
pub use kiln_image::{Digest, ImageRef, InvalidReference, Platform, oci};
pub use kiln_parser::lint::{RULES, Rule};
pub use kiln_parser::{Mount, MountProblem, ParseError, ParseErrors, Span, Warning, boolean};
pub use kiln_remote::{CacheSpec, InvalidSpec};
pub use kiln_sandbox::{
    Capabilities, CapabilityError, Chroot, Dns, HostAddress, HostDevice, OciRuntime, Resources, SandboxError,
    SecurityOptions, Swap,
};
pub use kiln_solver::event::{Event, EventSink, LogStream, StepId};
pub use kiln_solver::explain::{Cause, Difference, FileChange, NoCacheBy};
pub use kiln_solver::graph::{ExtraGroups, NetworkMode, Volume, VolumeAccess};
pub use kiln_solver::plan::{Outline, OutlineArg, OutlineMount, PlanError, Unneeded, lifetime};
pub use kiln_solver::solve::{Confinement, Executor, Isolation, SolveError, Verdict};
pub use lock::{Lock, LockReport, LockedSource};
pub use output::{Annotation, AnnotationTarget, ImageOptions, LayerCompression, MediaTypes, TreeOptions};
pub use proxies::docker_proxies;
pub use whole_file::write_whole;
