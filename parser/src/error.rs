//! What can be wrong with a Dockerfile, as data.

use crate::Span;
use crate::suggest::closest;

/// A mistake in the text. Variants are named by what is wrong for the author of the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The file has no bytes.
    #[error("the Dockerfile cannot be empty")]
    EmptyFile,
    /// Only comments and blank lines.
    #[error("file with no instructions")]
    NoInstructions {
        /// The end of the file.
        span: Span,
    },
    /// `ARG`s and no `FROM`.
    #[error("dockerfile contains no stages to build")]
    NoStages {
        /// The end of the file.
        span: Span,
    },
    /// An instruction other than `ARG` before the first `FROM`.
    #[error("no build stage in current context")]
    BeforeFirstStage {
        /// The instruction's keyword.
        instruction: &'static str,
        /// The instruction.
        span: Span,
    },
    /// A physical line is longer than a line may be.
    #[error("dockerfile line greater than max allowed size of {limit}")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
        /// The line.
        span: Span,
    },
    /// An instruction or a heredoc holds bytes that are no text.
    #[error("the text is not valid UTF-8")]
    NotUtf8 {
        /// The first such byte.
        span: Span,
    },
    /// The file has more text than a Dockerfile may have.
    #[error("the Dockerfile is larger than {limit} bytes")]
    FileTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A parser directive stands twice.
    #[error("only one {name} parser directive can be used")]
    RepeatedDirective {
        /// The directive.
        name: &'static str,
        /// From the first to the second.
        span: Span,
    },
    /// `# escape=` with something else than `\` or `` ` ``.
    #[error("invalid escape token '{value}' does not match ` or \\")]
    InvalidEscape {
        /// The value.
        value: String,
        /// The directive's line.
        span: Span,
    },
    /// `# check=` with an option that there is not.
    #[error("{problem}")]
    InvalidCheck {
        /// Which.
        problem: crate::BadCheck,
        /// The directive's line.
        span: Span,
    },
    /// The first word of a line is no instruction.
    #[error("unknown instruction: {word}")]
    UnknownInstruction {
        /// The word as written.
        word: String,
        /// Where it stands.
        span: Span,
        /// The instruction with the nearest name, if one is near.
        closest: Option<&'static str>,
    },
    /// The instruction knows no such flag (Dockerfile reference, the instruction's "Options").
    #[error("unknown flag: --{flag}")]
    UnknownFlag {
        /// The instruction's keyword.
        instruction: &'static str,
        /// The flag without dashes and value.
        flag: String,
        /// Where it stands.
        span: Span,
        /// The instruction's flag with the nearest name, if one is near.
        closest: Option<&'static str>,
    },
    /// A flag that may stand once stands twice.
    #[error("duplicate flag specified: --{flag}")]
    RepeatedFlag {
        /// The flag.
        flag: &'static str,
        /// The second one.
        span: Span,
    },
    /// A flag that needs a value has none.
    #[error("missing a value on flag: --{flag}")]
    FlagWithoutValue {
        /// The flag.
        flag: &'static str,
        /// Where it stands.
        span: Span,
    },
    /// A flag that is on or off has another value.
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// Where it stands.
        span: Span,
    },
    /// Nothing follows the keyword.
    #[error("{instruction} requires at least one argument")]
    NoArguments {
        /// The keyword.
        instruction: &'static str,
        /// The instruction.
        span: Span,
    },
    /// Nothing follows a keyword that takes the rest of the line as one argument.
    #[error("{instruction} requires exactly one argument")]
    NotOneArgument {
        /// The keyword.
        instruction: &'static str,
        /// The instruction.
        span: Span,
    },
    /// COPY or ADD with fewer than two arguments.
    #[error(
        "{instruction} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination {
        /// The keyword.
        instruction: &'static str,
        /// The instruction.
        span: Span,
    },
    /// FROM with something else than a base, or a base, `AS` and a name.
    #[error("FROM requires either one or three arguments")]
    FromArguments {
        /// The arguments.
        span: Span,
    },
    /// A stage's name has characters that it may not have.
    #[error("invalid name for build stage: \"{name}\", name can't start with a number or contain symbols")]
    InvalidStageName {
        /// The name as written.
        name: String,
        /// Where it stands.
        span: Span,
    },
    /// ENV or LABEL with a name and nothing else.
    #[error("{instruction} must have two arguments")]
    NoValue {
        /// The keyword.
        instruction: &'static str,
        /// The name.
        span: Span,
    },
    /// A word among `name=value` pairs that is no pair.
    #[error("Syntax error - can't find = in \"{word}\". Must be of the form: name=value")]
    NoEqualsSign {
        /// The word.
        word: String,
        /// Where it stands.
        span: Span,
    },
    /// A pair without a name.
    #[error("{instruction} names can not be blank")]
    BlankName {
        /// The keyword.
        instruction: &'static str,
        /// The pair.
        span: Span,
    },
    /// A JSON array with something else than strings in it.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotOnlyStrings {
        /// The array.
        span: Span,
    },
    /// SHELL without a JSON array.
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellNotJson {
        /// The arguments.
        span: Span,
    },
    /// A heredoc without its last line.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc {
        /// The delimiter.
        delimiter: String,
        /// From the instruction to the end of the file.
        span: Span,
    },
    /// The last argument of COPY or ADD is a heredoc.
    #[error("{instruction} cannot accept a heredoc as a destination")]
    HeredocAsDestination {
        /// The keyword.
        instruction: &'static str,
        /// The argument.
        span: Span,
    },
    /// `VOLUME [""]`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume {
        /// The arguments.
        span: Span,
    },
    /// `ONBUILD ONBUILD`.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    ChainedOnbuild {
        /// The second one.
        span: Span,
    },
    /// An instruction that ONBUILD cannot delay.
    #[error("{instruction} isn't allowed as an ONBUILD trigger")]
    ForbiddenTrigger {
        /// The keyword.
        instruction: &'static str,
        /// Where it stands.
        span: Span,
    },
    /// A trigger's text holds more than one instruction.
    #[error("a trigger is one instruction, and this text holds more")]
    SeveralInstructions {
        /// The second one.
        span: Span,
    },
    /// HEALTHCHECK with another word than `CMD` or `NONE`.
    #[error("Unknown type \"{word}\" in HEALTHCHECK (try CMD)")]
    UnknownHealthcheck {
        /// The word, in upper case.
        word: String,
        /// Where it stands.
        span: Span,
    },
    /// `HEALTHCHECK NONE` with more words.
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNoneArguments {
        /// The words.
        span: Span,
    },
    /// `HEALTHCHECK CMD` with nothing behind it.
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckWithoutCommand {
        /// The instruction.
        span: Span,
    },
    /// A flag's value is no duration.
    #[error("{problem} \"{value}\" of --{flag}")]
    InvalidDuration {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// Where it stands.
        span: Span,
    },
    /// A duration under a millisecond, which a container engine cannot keep.
    #[error("Interval \"{flag}\" cannot be less than 1ms")]
    DurationTooShort {
        /// The flag.
        flag: &'static str,
        /// Where it stands.
        span: Span,
    },
    /// `--retries` is no number, or negative.
    #[error("--retries {} ({value})", if value.starts_with('-') { "cannot be negative" } else { "needs a number" })]
    InvalidRetries {
        /// The value.
        value: String,
        /// Where it stands.
        span: Span,
    },
    /// `RUN --network` with an unknown mode.
    #[error("invalid network mode \"{mode}\"")]
    InvalidNetwork {
        /// The mode.
        mode: String,
        /// Where it stands.
        span: Span,
    },
    /// `RUN --security` with an unknown mode.
    #[error("security \"{mode}\" is not valid")]
    InvalidSecurity {
        /// The mode.
        mode: String,
        /// Where it stands.
        span: Span,
    },
    /// Something is wrong inside `RUN --mount`.
    #[error("{problem}")]
    InvalidMount {
        /// What.
        problem: MountProblem,
        /// The flag.
        span: Span,
    },
    /// Something is wrong inside `RUN --device`.
    #[error("{problem}")]
    InvalidDevice {
        /// What.
        problem: DeviceProblem,
        /// The flag.
        span: Span,
    },
    /// `COPY --from=$variable`.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromVariable {
        /// The flag.
        span: Span,
    },
}

/// What can be wrong with the value of `RUN --mount` (FEATURES RN16–RN31).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountProblem {
    /// A quoted field is not closed, or text follows its closing quote.
    #[error("the mount options are not comma-separated fields: {text}")]
    NotCsv {
        /// The value.
        text: String,
    },
    /// A field that needs a value has none.
    #[error("invalid field '{field}' must be a key=value pair")]
    NotPair {
        /// The field.
        field: String,
    },
    /// A key that no mount knows.
    #[error("unexpected key '{key}' in '{field}'")]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole field.
        field: String,
        /// The key with the nearest name, if one is near.
        closest: Option<&'static str>,
    },
    /// A key that mounts of this type do not have.
    #[error("{}", key_not_for_type(key, kind))]
    KeyNotForType {
        /// The key.
        key: &'static str,
        /// The mount's type.
        kind: &'static str,
    },
    /// What buildah has and kiln does not do.
    #[error("mount option '{option}' is not supported: {reason}")]
    Unsupported {
        /// The key, or the value that it is about.
        option: String,
        /// Why.
        reason: &'static str,
    },
    /// An unknown type.
    #[error("unsupported mount type \"{kind}\"")]
    UnknownType {
        /// The type as written.
        kind: String,
        /// The nearest type, if one is near.
        closest: Option<&'static str>,
    },
    /// A value that the key does not take.
    #[error(
        "{}",
        match *key {
            "mode" | "uid" | "gid" => format!("invalid value {value} for {key}"),
            _ => format!("invalid value for {key}: {value}"),
        }
    )]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// `sharing` has another value than `shared`, `private`, `locked`.
    #[error("unsupported sharing value \"{value}\"")]
    UnknownSharing {
        /// The value.
        value: String,
    },
    /// No target, or the root directory.
    #[error("invalid mount target \"{target}\"")]
    InvalidTarget {
        /// The target.
        target: String,
    },
    /// `from=$variable`.
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    FromVariable,
    /// A secret that has neither `id` nor `target`.
    #[error("invalid secret mount. one of source, target required")]
    SecretWithoutId,
    /// A secret with both `id` and `source`.
    #[error("both source and id can't be set")]
    SecretIdTwice,
}

impl ParseError {
    /// Where in the Dockerfile the cause stands.
    pub fn span(&self) -> Span {
        match self {
            Self::EmptyFile | Self::FileTooLong { .. } => Span { start: 0, end: 0, line: 1, end_line: 1 },
            Self::NoInstructions { span }
            | Self::NoStages { span }
            | Self::BeforeFirstStage { span, .. }
            | Self::LineTooLong { span, .. }
            | Self::NotUtf8 { span }
            | Self::RepeatedDirective { span, .. }
            | Self::InvalidEscape { span, .. }
            | Self::InvalidCheck { span, .. }
            | Self::UnknownInstruction { span, .. }
            | Self::UnknownFlag { span, .. }
            | Self::RepeatedFlag { span, .. }
            | Self::FlagWithoutValue { span, .. }
            | Self::FlagNotBoolean { span, .. }
            | Self::NoArguments { span, .. }
            | Self::NotOneArgument { span, .. }
            | Self::NoDestination { span, .. }
            | Self::FromArguments { span }
            | Self::InvalidStageName { span, .. }
            | Self::NoValue { span, .. }
            | Self::NoEqualsSign { span, .. }
            | Self::BlankName { span, .. }
            | Self::NotOnlyStrings { span }
            | Self::ShellNotJson { span }
            | Self::UnterminatedHeredoc { span, .. }
            | Self::HeredocAsDestination { span, .. }
            | Self::EmptyVolume { span }
            | Self::ChainedOnbuild { span }
            | Self::ForbiddenTrigger { span, .. }
            | Self::SeveralInstructions { span }
            | Self::UnknownHealthcheck { span, .. }
            | Self::HealthcheckNoneArguments { span }
            | Self::HealthcheckWithoutCommand { span }
            | Self::InvalidDuration { span, .. }
            | Self::DurationTooShort { span, .. }
            | Self::InvalidRetries { span, .. }
            | Self::InvalidNetwork { span, .. }
            | Self::InvalidSecurity { span, .. }
            | Self::InvalidMount { span, .. }
            | Self::InvalidDevice { span, .. }
            | Self::FromVariable { span } => *span,
        }
    }

    /// What the author can do, in one sentence; `None` rather than a platitude.
    pub fn hint(&self) -> Option<String> {
        // Suggested words stand without quotes, as BuildKit has them: people and tools search for its phrases.
        match self {
            // In capitals only to who wrote capitals.
            Self::UnknownInstruction { word, closest, .. } => closest.map(|keyword| {
                let is_upper = !word.contains(|ch: char| ch.is_ascii_lowercase());
                did_you_mean(&if is_upper { keyword.to_owned() } else { keyword.to_lowercase() })
            }),
            Self::UnknownFlag { closest, .. } => closest.map(|flag| format!("did you mean --{flag}?")),
            Self::InvalidCheck { problem, .. } => Some(problem.hint().to_owned()),
            Self::InvalidMount { problem, .. } => problem.hint(),
            Self::InvalidDevice { problem, .. } => problem.hint(),
            Self::NoStages { .. } | Self::BeforeFirstStage { .. } => {
                Some("a build stage begins with FROM, such as `FROM debian:stable`".to_owned())
            }
            Self::FromArguments { .. } => Some("write `FROM image` or `FROM image AS name`".to_owned()),
            Self::InvalidStageName { .. } => {
                Some("a stage's name is a letter and then letters, digits, `-`, `_` or `.`".to_owned())
            }
            Self::NoDestination { instruction, .. } => {
                Some(format!("write `{instruction} source… destination`"))
            }
            Self::NoEqualsSign { .. } => {
                Some("put quotes around a value that has spaces: name=\"two words\"".to_owned())
            }
            Self::NoValue { instruction, .. } => Some(format!("write `{instruction} name=value`")),
            Self::FlagWithoutValue { flag, .. } => Some(format!("write `--{flag}=value`")),
            Self::FlagNotBoolean { flag, .. } => Some(format!("write `--{flag}`, or `--{flag}=false`")),
            Self::ShellNotJson { .. } => Some("write `SHELL [\"/bin/bash\", \"-c\"]`".to_owned()),
            Self::UnterminatedHeredoc { delimiter, .. } => Some(format!(
                "end the text with a line that holds `{delimiter}` and nothing else, not even a space before it"
            )),
            Self::InvalidDuration { .. } | Self::DurationTooShort { .. } => {
                Some("write a number and a unit: `500ms`, `30s`, `1m30s`".to_owned())
            }
            Self::InvalidNetwork { .. } => Some("the modes are default, none and host".to_owned()),
            Self::InvalidSecurity { .. } => Some("the modes are sandbox and insecure".to_owned()),
            Self::FromVariable { .. } => {
                Some("write `FROM ${VARIABLE} AS name` above and `COPY --from=name` here".to_owned())
            }
            Self::NotUtf8 { .. } => Some("save the Dockerfile as UTF-8".to_owned()),
            Self::LineTooLong { .. } => {
                Some("break the line with continuations, or COPY the text from a file".to_owned())
            }
            _ => None,
        }
    }
}

/// BuildKit's words, which differ by key.
fn key_not_for_type(key: &str, kind: &str) -> String {
    match (key, kind) {
        ("mode" | "uid" | "gid", _) => format!("{key} not allowed for \"{kind}\" type mounts"),
        ("from", _) => format!("{kind} mount should not have a from"),
        ("sharing", "secret") => "secret mount should not define sharing".to_owned(),
        ("sharing", _) => format!("invalid cache sharing set for {kind} mount"),
        ("source", "ssh") => "ssh does not support source".to_owned(),
        _ => format!("unexpected key '{key}' for mount type '{kind}'"),
    }
}

/// What is wrong inside `RUN --device`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceProblem {
    /// A quoted field is not closed, or text follows its closing quote.
    #[error("the device's options are not comma-separated fields: {text}")]
    NotCsv {
        /// The value.
        text: String,
    },
    /// A word behind the name.
    #[error("invalid field '{field}' must be a key=value pair")]
    NotPair {
        /// The field.
        field: String,
    },
    /// A key that devices do not have.
    #[error("unexpected key '{key}' in '{field}'")]
    UnknownKey {
        /// The key.
        key: String,
        /// The whole field.
        field: String,
        /// The key with the nearest name, if one is near.
        closest: Option<&'static str>,
    },
    /// `required` is neither true nor false.
    #[error("invalid value for required: {value}")]
    InvalidRequired {
        /// The value.
        value: String,
    },
    /// Two names.
    #[error("device name already set to {name}")]
    SecondName {
        /// The first.
        name: String,
    },
    /// No name.
    #[error("no device is named")]
    NoName,
}

impl DeviceProblem {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { closest: Some(key), .. } => Some(did_you_mean(key)),
            _ => Some("a device is written vendor/class=name or vendor/class=name,required".to_owned()),
        }
    }
}

impl MountProblem {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { closest, .. } => closest.map(did_you_mean),
            Self::NotPair { field } if field.is_empty() => {
                Some("between options there is one comma, and no space".to_owned())
            }
            Self::UnknownType { closest: Some(kind), .. } => Some(did_you_mean(kind)),
            Self::UnknownType { .. } => Some("the types are bind, cache, secret, ssh and tmpfs".to_owned()),
            Self::UnknownSharing { value } => Some(match closest(value, ["shared", "private", "locked"]) {
                Some(near) => did_you_mean(near),
                None => "the values are shared, private and locked".to_owned(),
            }),
            Self::InvalidTarget { .. } => Some("say where to mount it: target=/path".to_owned()),
            Self::FromVariable => {
                Some("write `FROM ${VARIABLE} AS name` above and `from=name` here".to_owned())
            }
            _ => None,
        }
    }
}

fn did_you_mean(word: &str) -> String {
    format!("did you mean {word}?")
}

/// All the mistakes of one text, in its order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.first().map(ToString::to_string).unwrap_or_default())]
pub struct ParseErrors(pub Vec<ParseError>, Vec<Span>);

impl ParseErrors {
    /// Each with the instruction that it stands in, whose first line is the one that BuildKit names.
    pub(crate) fn new(errors: Vec<(ParseError, Span)>) -> Self {
        let (errors, instructions) = errors.into_iter().unzip();
        Self(errors, instructions)
    }

    /// The errors, each with the instruction that it stands in; what stands in none is its own place.
    pub fn in_instructions(&self) -> impl Iterator<Item = (&ParseError, Span)> {
        self.0.iter().zip(self.1.iter().copied())
    }
}

impl From<ParseError> for ParseErrors {
    fn from(error: ParseError) -> Self {
        let span = error.span();
        Self(vec![error], vec![span])
    }
}

/// Something that works but should not be written so (BuildKit's lint rules by name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Rule name in Pascal case, as BuildKit has it, such as `NoEmptyContinuation`.
    pub rule: &'static str,
    /// What is wrong here.
    pub message: String,
    /// The instruction, or the lines of it that BuildKit names.
    pub span: Span,
    /// The word of it that is meant, as written, where it is one; [`Span::narrowed`] finds it.
    pub word: Option<String>,
    /// The instruction whose comment silences it, where that is another one than stands at `span`.
    pub judged_by: Option<Span>,
}
