//! A stage while its instructions are taken one after the other.

use kiln_image::Platform;
use kiln_image::oci::ImageConfig;
use kiln_parser::Span;

use super::cache::StageCache;
use super::environment::{ConfigEnv, DeclaredArgs, Environment};
use super::history::HistoryId;
use super::names::StepNames;
use super::paths;
use super::stages::StageIndex;
use crate::graph::VertexId;

/// What a stage has come to.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// Which.
    pub(super) index: StageIndex,
    /// Its root file system so far.
    pub(super) root: VertexId,
    /// What its steps run on.
    pub(super) platform: Platform,
    /// The image config; `env` and `history` are kept apart.
    pub(super) image: ImageConfig,
    /// The config's `Env`.
    pub(super) config_env: ConfigEnv,
    /// What expansion and RUN see.
    pub(super) environment: Environment,
    /// ARGs declared.
    pub(super) args: DeclaredArgs,
    /// Its last history entry.
    pub(super) history: HistoryId,
    /// How many of the entries are the base image's.
    pub(super) base_history: usize,
    /// A WORKDIR was given in this Dockerfile.
    pub(super) workdir_given: bool,
    /// Names of its steps.
    pub(super) names: StepNames,
    /// Whether records may be results of its steps.
    pub(super) cache: StageCache,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage itself.
    pub(super) last: LastGiven,
}

/// Where instructions stand of which only the last counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastGiven {
    pub(super) cmd: Option<Span>,
    pub(super) entrypoint: Option<Span>,
    pub(super) healthcheck: Option<Span>,
}

impl StageState {
    /// Absolute and clean.
    pub(super) fn directory(&self) -> String {
        paths::join("/", &self.image.config.working_dir)
    }

    /// The shell of shell-form commands.
    pub(super) fn shell(&self) -> Vec<String> {
        match &self.image.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ if self.image.os == "windows" => vec!["cmd".into(), "/S".into(), "/C".into()],
            _ => vec!["/bin/sh".into(), "-c".into()],
        }
    }
}
