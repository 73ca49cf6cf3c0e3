//! An OCI runtime of the host's (crun, runc, youki, runsc …) in place of kiln's own sandbox.
//!
//! kiln makes what a runtime does not make: the root of layers, the sources of mounts, mount points that leave no trace,
//! the network, a control group with the limits. The bundle and the runtime's state lie on a tmpfs that only the step's
//! mount namespace has, so neither a secret nor anything else of it reaches a disk. The runtime is the first process of a
//! process namespace of kiln's: when that goes, all that the runtime started goes with it, and the kernel cleans up.
//!
//! Here: what is asked of a runtime (`config`), how it is started (`start`), what it says (`log`).

mod config;
mod log;
mod start;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub(crate) use log::failure;
pub(crate) use start::{become_runtime, report_log};

use crate::control_group::{self, ControlGroup};
use crate::plan::{Plan, PlannedMount, PrivateFile, c_string, setup};
use crate::{Exit, Io, Output, SandboxError, Spec};

/// A program that runs bundles as the OCI runtime specification has it, with runc's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRuntime {
    program: PathBuf,
}

impl OciRuntime {
    /// The runtime at `program`, an absolute path.
    ///
    /// # Errors
    /// [`SandboxError::NoRuntime`] where there is no such program.
    pub fn new(program: impl Into<PathBuf>) -> Result<OciRuntime, SandboxError> {
        let program = program.into();
        let refused = |source| SandboxError::NoRuntime { program: program.clone(), source };
        if !program.is_absolute() {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path")));
        }
        let found = std::fs::metadata(&program).map_err(refused)?;
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
            return Err(refused(io::Error::new(io::ErrorKind::PermissionDenied, "it is no program")));
        }
        Ok(OciRuntime { program })
    }

    /// Runs `spec` to its end as [`crate::run()`] does. What the command prints and how it ends is the same; usage counts
    /// the runtime in.
    ///
    /// # Errors
    /// As [`crate::run()`]. A terminal, an emulator that is registered for the one sandbox, and the emulation of owners
    /// where there is one id only are the embedded sandbox's alone.
    pub fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError> {
        crate::run::run_by(Some(self), spec, output, cancel)
    }

    /// The program's own name, for messages.
    pub(crate) fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What the child needs to become the runtime.
#[derive(Debug)]
pub(crate) struct PlannedRuntime {
    /// For messages.
    pub(crate) name: String,
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// For each mount, where its source is put in the private tmpfs.
    sources: Vec<CString>,
    /// For each mount, whether its mount point is kiln's to make: those within other mounts are the runtime's.
    makes_target: Vec<bool>,
    /// Whether the working directory is kiln's to make.
    makes_cwd: bool,
    /// Whether version 1 of control groups is hidden from the runtime.
    covers_control_groups: bool,
    /// Where the runtime writes what goes wrong.
    log: CString,
}

/// The bundle's file (OCI runtime specification, `bundle.md`).
const CONFIG: &str = "config.json";
/// The runtime's state, in the private tmpfs.
const STATE: &str = "state";
/// Its log, beside it.
const LOG: &str = "log";
/// All that a runtime needs of the host's environment.
const RUNTIME_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl PlannedRuntime {
    /// Prepares `runtime` for what is planned already, and adds the bundle to the private files.
    pub(crate) fn new(
        runtime: &OciRuntime,
        spec: &Spec,
        plan: &mut Plan,
        group: &ControlGroup,
    ) -> Result<PlannedRuntime, SandboxError> {
        let name = runtime.name();
        let lacking = |what: &str| {
            let why = format!("{what}; leave --executor out for this build");
            Err(setup(&format!("running by {name}"), io::Error::new(io::ErrorKind::Unsupported, why)))
        };
        if plan.emulated.is_some() {
            return lacking("owners of files are emulated here, which only the embedded executor does");
        }
        if plan.emulator.is_some() {
            return lacking("the emulator for this platform is registered by the embedded executor only");
        }
        if matches!(spec.io, Io::Terminal(_)) {
            return lacking("a terminal is given by the embedded executor only");
        }
        // The private tmpfs covers it in the step's own mount namespace.
        let bundle = &spec.rootfs.work;
        let contents = config::bundle(spec, plan, group, bundle)?;
        plan.files.push(PrivateFile {
            name: c_string("the bundle", CONFIG)?,
            contents,
            mode: 0o600,
            uid: 0,
            gid: 0,
        });
        let inner = |name: &str| c_string("the bundle", bundle.join(name).as_os_str().as_bytes());
        let program = c_string("the runtime", runtime.program.as_os_str().as_bytes())?;
        let word = |word: &str| c_string("the runtime's arguments", word);
        let argv = vec![
            program.clone(),
            word("--root")?,
            inner(STATE)?,
            word("--log")?,
            inner(LOG)?,
            word("--log-format")?,
            word("json")?,
            word("run")?,
            word("--bundle")?,
            c_string("the bundle", bundle.as_os_str().as_bytes())?,
            word("kiln")?,
        ];
        let sources = (0..plan.mounts.len()).map(source_name).map(|name| word(&name));
        Ok(PlannedRuntime {
            name,
            program,
            argv,
            env: vec![word(RUNTIME_PATH)?],
            sources: sources.collect::<Result<_, _>>()?,
            makes_target: (0..plan.mounts.len())
                .map(|index| is_of_root(&inner_path(&plan.mounts[index]), &plan.mounts[..index]))
                .collect(),
            makes_cwd: is_of_root(&path_of(&plan.cwd), &plan.mounts),
            covers_control_groups: !control_group::is_version_2_only(),
            log: inner(LOG)?,
        })
    }
}

/// Name of a mount's source in the private tmpfs.
fn source_name(index: usize) -> String {
    format!("source-{index}")
}

/// A planned path, relative to the root.
fn path_of(text: &CString) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(text.as_bytes()))
}

fn inner_path(mount: &PlannedMount) -> PathBuf {
    path_of(&mount.target)
}

/// Whether `path` lies in the root of layers itself, and not in what is mounted there: the kernel's file systems (`/proc`
/// is looked at to be refused) or one of `mounts`.
fn is_of_root(path: &Path, mounts: &[PlannedMount]) -> bool {
    !["sys", "dev"].iter().any(|kernels| path.starts_with(kernels))
        && !mounts.iter().any(|mount| path.starts_with(inner_path(mount)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_there_is_named() {
        let error = OciRuntime::new("/nonexistent/crun").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no OCI runtime at /nonexistent/crun: No such file or directory (os error 2)"
        );
        let error = OciRuntime::new("/etc").unwrap_err().to_string();
        assert_eq!(error, "there is no OCI runtime at /etc: it is no program");
        assert!(OciRuntime::new("crun").unwrap_err().to_string().ends_with("it is not an absolute path"));
    }
}
