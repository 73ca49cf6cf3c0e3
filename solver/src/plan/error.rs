//! Why there is no plan, as data.

use kiln_image::InvalidReference;
use kiln_image::local::InvalidLocalName;
use kiln_parser::expand::ExpandError;
use kiln_parser::{MountProblem, ParseErrors, Span};

use super::BaseError;
use super::near::nearest;

/// Images that a name may have been meant for (BuildKit suggests the same).
const USUAL_IMAGES: [&str; 7] = ["alpine", "busybox", "centos", "debian", "fedora", "golang", "ubuntu"];

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// `--target` names no stage.
    #[error("target stage {target:?} could not be found")]
    UnknownTarget {
        /// What was asked for.
        target: String,
        /// A stage with a near name.
        closest: Option<String>,
    },
    /// `SOURCE_DATE_EPOCH` is neither a number nor a name of anything.
    #[error("invalid SOURCE_DATE_EPOCH: {value}")]
    InvalidEpoch {
        /// As given.
        value: String,
    },
    /// `SOURCE_DATE_EPOCH` names a stage that is more than one remote ADD.
    #[error("SOURCE_DATE_EPOCH {problem}")]
    UnusableEpochStage {
        /// What is wrong with it.
        problem: String,
        /// Where.
        span: Span,
    },
    /// Stages need each other.
    #[error("circular dependency detected on stage: {stage}")]
    CircularStages {
        /// One of them.
        stage: String,
        /// Which needs which, where there are several.
        round: Option<String>,
        /// Where.
        span: Span,
    },
    /// A word's variables cannot be replaced.
    #[error("{cause}")]
    Expansion {
        /// What is wrong with it; names the word.
        cause: ExpandError,
        /// Where.
        span: Span,
    },
    /// Variables made a word longer than any use of it.
    #[error("{word:?} expands to more than {limit_bytes} bytes")]
    ExpansionTooLong {
        /// The word as written, cut.
        word: String,
        /// The limit.
        limit_bytes: usize,
        /// Where.
        span: Span,
    },
    /// `FROM` names nothing once its variables are replaced.
    #[error("base name ({written}) should not be blank")]
    BlankBase {
        /// As written.
        written: String,
        /// A variable in it that is not set.
        unset: Option<String>,
        /// A declared variable with a near name.
        closest: Option<String>,
        /// Where.
        span: Span,
    },
    /// `FROM --platform=` is empty once its variables are replaced.
    #[error("empty platform value from expression {written}")]
    BlankPlatform {
        /// As written.
        written: String,
        /// A declared variable with a near name.
        closest: Option<String>,
        /// Where.
        span: Span,
    },
    /// `FROM --platform=` is no platform.
    #[error("failed to parse platform {written}: {value:?} is not os/architecture[/variant]")]
    InvalidPlatform {
        /// As written.
        written: String,
        /// Expanded.
        value: String,
        /// Where.
        span: Span,
    },
    /// `FROM --after=` names no stage.
    #[error("stage {stage:?} of --after could not be found")]
    UnknownAfter {
        /// Expanded.
        stage: String,
        /// A stage with a near name.
        closest: Option<String>,
        /// Where.
        span: Span,
    },
    /// `FROM --after=` names its own stage or a later one.
    #[error("cannot start after stage {after:?}, it needs to be defined before current stage {current:?}")]
    AfterLaterStage {
        /// Expanded.
        after: String,
        /// The stage that is to wait.
        current: String,
        /// Where.
        span: Span,
    },
    /// What FROM, `--from` or `from=` names is neither a stage nor the name of an image.
    #[error("failed to parse stage name {name:?}")]
    InvalidBaseName {
        /// Expanded.
        name: String,
        /// What is wrong with it.
        #[source]
        cause: InvalidReference,
        /// A stage with a near name.
        closest: Option<String>,
        /// Where.
        span: Span,
    },
    /// It begins as the name of an image in a file of the host does.
    #[error("{name:?} names no image")]
    InvalidLocalName {
        /// Expanded.
        name: String,
        /// What is wrong with it.
        #[source]
        cause: InvalidLocalName,
        /// Where.
        span: Span,
    },
    /// An image in a file of the host, wanted by what may not have it.
    #[error("{name}: only a Dockerfile that is a file of this machine may name images of this machine")]
    LocalNameRefused {
        /// Expanded.
        name: String,
        /// Where.
        span: Span,
    },
    /// The image cannot be had.
    #[error("{name}: image cannot be used")]
    Base {
        /// As the Dockerfile has it, expanded.
        name: String,
        /// Why.
        #[source]
        cause: BaseError,
        /// A stage with a near name.
        closest: Option<String>,
        /// The stage is to start after another one, which may have been meant to write the image.
        is_after: bool,
        /// Where.
        span: Span,
    },
    /// `COPY --from=$X` or `RUN --mount=from=$X`.
    #[error(
        "variable expansion is not supported for {option}, define a new stage with FROM using ARG from global scope"
    )]
    VariableInFrom {
        /// `--from` or `from`.
        option: &'static str,
        /// The value.
        value: String,
        /// Where.
        span: Span,
    },
    /// A number that is no stage's.
    #[error("invalid stage index {index}")]
    InvalidStageIndex {
        /// As written.
        index: String,
        /// How many stages there are.
        stages: usize,
        /// Where.
        span: Span,
    },
    /// The stage that is copied from comes later.
    #[error("cannot copy from stage {from:?}, it needs to be defined before current stage {current:?}")]
    CopyFromLaterStage {
        /// The stage asked for.
        from: String,
        /// The stage that asks.
        current: String,
        /// Where.
        span: Span,
    },
    /// The stage that is mounted comes later.
    #[error(
        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command"
    )]
    MountFromLaterStage {
        /// The stage asked for.
        from: String,
        /// The mount's target.
        target: String,
        /// Where.
        span: Span,
    },
    /// A mount's variables have values that it cannot have.
    #[error("{problem}")]
    InvalidMount {
        /// What is wrong.
        problem: MountProblem,
        /// Where.
        span: Span,
    },
    /// RUN has an empty JSON array.
    #[error("RUN has no command: arguments are required")]
    NoCommand {
        /// Where.
        span: Span,
    },
    /// A mount without a usable target.
    #[error("invalid mount target {target:?}")]
    InvalidMountTarget {
        /// As written.
        target: String,
        /// Where.
        span: Span,
    },
    /// A secret mount that has neither an id nor a target.
    #[error("one of source, target required")]
    SecretWithoutId {
        /// Where.
        span: Span,
    },
    /// `--chmod` is neither octal nor symbolic.
    #[error(
        "invalid chmod parameter: '{value}'{}",
        if value.starts_with(|c: char| c.is_ascii_digit()) {
            ". it should be octal string and between 0 and 07777"
        } else {
            ": invalid syntax"
        }
    )]
    InvalidMode {
        /// Expanded.
        value: String,
        /// Where.
        span: Span,
    },
    /// `ADD --checksum` where it means nothing.
    #[error("checksum {problem}")]
    MisplacedChecksum {
        /// Why.
        problem: &'static str,
        /// Where.
        span: Span,
    },
    /// `ADD --checksum` is no digest.
    #[error("invalid checksum {value:?}: {problem}")]
    InvalidChecksum {
        /// Expanded.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
        /// Where.
        span: Span,
    },
    /// COPY of something that only ADD fetches.
    #[error("source can't be a {kind} for COPY")]
    RemoteCopy {
        /// `URL` or `git ref`.
        kind: &'static str,
        /// The source.
        source_path: String,
        /// Where.
        span: Span,
    },
    /// A git URL whose query or fragment contradicts itself, or asks for what kiln has not.
    #[error("git source {url:?}: {problem}")]
    InvalidGitSource {
        /// The URL.
        url: String,
        /// What is wrong.
        problem: String,
        /// Where.
        span: Span,
    },
    /// EXPOSE of what is no port.
    #[error("{problem}")]
    InvalidPort {
        /// What is wrong, with the port in it.
        problem: String,
        /// Where.
        span: Span,
    },
    /// The history is longer than any reader of images takes.
    #[error("the image's history would be longer than {limit_bytes} bytes")]
    HistoryTooLong {
        /// The limit.
        limit_bytes: usize,
        /// Where.
        span: Span,
    },
    /// STOPSIGNAL of what is no signal.
    #[error("invalid signal: {signal}")]
    InvalidSignal {
        /// Expanded.
        signal: String,
        /// Where.
        span: Span,
    },
    /// `VOLUME ""`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume {
        /// Where.
        span: Span,
    },
    /// A privilege that the user did not give.
    #[error("{entitlement} is not allowed")]
    NotAllowed {
        /// `security.insecure` or `network.host`.
        entitlement: &'static str,
        /// Where.
        span: Span,
    },
    /// `# kiln: …` above an instruction says something that kiln does not know.
    #[error("`# kiln: {text}`: {problem}")]
    InvalidCacheComment {
        /// What follows `kiln:`.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
        /// The instruction.
        span: Span,
    },
    /// A base image's ONBUILD trigger is no instruction.
    #[error("onbuild trigger of the base image cannot be parsed: {trigger:?}")]
    InvalidTrigger {
        /// Its text.
        trigger: String,
        /// Why.
        #[source]
        cause: ParseErrors,
        /// The FROM that brought it.
        span: Span,
    },
    /// A base image's ONBUILD trigger wants a secret or agent that the Dockerfile does not use itself.
    #[error(
        "onbuild trigger of the base image asks for the {kind} {id:?}, which the Dockerfile does not name"
    )]
    TriggerWantsSecret {
        /// `secret` or `ssh agent`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// The FROM that brought it.
        span: Span,
    },
}

impl PlanError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::UnknownTarget { .. } | Self::InvalidEpoch { .. } => None,
            Self::CircularStages { span, .. }
            | Self::Expansion { span, .. }
            | Self::ExpansionTooLong { span, .. }
            | Self::BlankBase { span, .. }
            | Self::BlankPlatform { span, .. }
            | Self::InvalidPlatform { span, .. }
            | Self::UnknownAfter { span, .. }
            | Self::AfterLaterStage { span, .. }
            | Self::InvalidBaseName { span, .. }
            | Self::InvalidLocalName { span, .. }
            | Self::LocalNameRefused { span, .. }
            | Self::Base { span, .. }
            | Self::VariableInFrom { span, .. }
            | Self::InvalidStageIndex { span, .. }
            | Self::CopyFromLaterStage { span, .. }
            | Self::MountFromLaterStage { span, .. }
            | Self::UnusableEpochStage { span, .. }
            | Self::InvalidMount { span, .. }
            | Self::InvalidMountTarget { span, .. }
            | Self::SecretWithoutId { span }
            | Self::NoCommand { span }
            | Self::InvalidMode { span, .. }
            | Self::MisplacedChecksum { span, .. }
            | Self::InvalidChecksum { span, .. }
            | Self::RemoteCopy { span, .. }
            | Self::InvalidGitSource { span, .. }
            | Self::InvalidPort { span, .. }
            | Self::HistoryTooLong { span, .. }
            | Self::InvalidSignal { span, .. }
            | Self::EmptyVolume { span }
            | Self::NotAllowed { span, .. }
            | Self::InvalidCacheComment { span, .. }
            | Self::InvalidTrigger { span, .. }
            | Self::TriggerWantsSecret { span, .. } => Some(*span),
        }
    }

    /// The word at [`PlanError::span`] that is meant, where it is one; it may stand there in another form.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::BlankBase { unset: Some(name), .. } => Some(name),
            Self::InvalidBaseName { name, .. }
            | Self::InvalidLocalName { name, .. }
            | Self::LocalNameRefused { name, .. }
            | Self::Base { name, .. } => Some(name),
            Self::BlankPlatform { written, .. } | Self::InvalidPlatform { written, .. } => Some(written),
            Self::VariableInFrom { value, .. } => Some(value),
            Self::InvalidStageIndex { index, .. } => Some(index),
            Self::CopyFromLaterStage { from, .. } | Self::MountFromLaterStage { from, .. } => Some(from),
            Self::UnknownAfter { stage: after, .. } | Self::AfterLaterStage { after, .. } => Some(after),
            Self::InvalidSignal { signal, .. } => Some(signal),
            _ => None,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::CircularStages { round, .. } => round.clone(),
            Self::Base { is_after: true, .. } => Some(
                "the earlier stage writes it into a directory of the host's that `--volume` gives it; where its steps are \
                 cached they write nothing, and `--no-cache-filter` runs them again"
                    .into(),
            ),
            Self::Base { name, closest: None, .. } => {
                let (name, _) = name.split_once([':', '@']).unwrap_or((name, ""));
                nearest(name, USUAL_IMAGES).map(|name| format!("did you mean the image {name}?"))
            }
            Self::UnknownTarget { closest, .. }
            | Self::UnknownAfter { closest, .. }
            | Self::Base { closest, .. }
            | Self::InvalidBaseName { closest, .. } => {
                closest.as_ref().map(|name| format!("did you mean the stage {name}?"))
            }
            Self::BlankPlatform { closest, .. } => {
                closest.as_ref().map(|name| format!("did you mean ${name}?"))
            }
            Self::BlankBase { unset, closest, .. } => match (unset, closest) {
                (_, Some(name)) => Some(format!("did you mean ${name}?")),
                (Some(name), None) => Some(format!(
                    "declare `ARG {name}=…` before the first FROM, or pass `--build-arg {name}=…` for one declared there"
                )),
                (None, None) => None,
            },
            Self::InvalidLocalName { cause, .. } => cause.hint(),
            Self::LocalNameRefused { name, .. } => {
                Some(format!("give it by name: `--build-context base={name}` and base in its place"))
            }
            Self::InvalidPlatform { .. } => Some("a platform is written linux/amd64 or linux/arm/v7".into()),
            Self::VariableInFrom { value, .. } => {
                Some(format!("write `FROM {value} AS alias` with a global ARG and use `alias` here"))
            }
            Self::InvalidStageIndex { stages, .. } => {
                Some(format!("stages are numbered from 0 to {}", stages.saturating_sub(1)))
            }
            Self::CopyFromLaterStage { from, .. } | Self::MountFromLaterStage { from, .. } => {
                Some(format!("move the stage {from:?} up"))
            }
            Self::AfterLaterStage { after, current, .. } if after != current => {
                Some(format!("move the stage {after:?} up"))
            }
            Self::InvalidMode { .. } => {
                Some("write octal digits such as 0755, or symbols such as u=rwX,go=rX".into())
            }
            Self::InvalidChecksum { .. } => {
                Some("write sha256: and 64 hex digits for a URL, or a commit for a git source".into())
            }
            Self::RemoteCopy { .. } => Some("use ADD to fetch it".into()),
            Self::NotAllowed { entitlement, .. } => Some(format!("allow it with `--allow {entitlement}`")),
            Self::TriggerWantsSecret { kind, id, .. } => {
                let mount = if *kind == "secret" { "secret" } else { "ssh" };
                Some(format!(
                    "if the base image may have it, use it in the Dockerfile: `RUN --mount=type={mount},id={id} true`"
                ))
            }
            Self::InvalidCacheComment { .. } => {
                Some("write `# kiln: no-cache`, or `# kiln: cache-ttl=24h` above RUN".into())
            }
            Self::InvalidPort { .. } => {
                Some("a port is written 80, 80/udp or 7000-7010/tcp, up to 65535".into())
            }
            _ => None,
        }
    }
}
