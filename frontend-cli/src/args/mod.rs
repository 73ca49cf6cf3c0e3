//! The words of the command line, as docker spells them.
//!
//! Values are checked for their shape here and nowhere else; what they mean is the commands' and the engine's business.
//! Docker's flag parser takes whatever word follows as a flag's value, so `allow_hyphen_values` stands on all of them.

pub(crate) mod attest;
mod build;
mod builds;
pub(crate) mod cache;
pub(crate) mod call;
pub(crate) mod csv;
pub(crate) mod host;
mod images;
mod kaniko;
mod legacy;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod pair;
pub(crate) mod registry;
pub(crate) mod resource;
pub(crate) mod secret;
pub(crate) mod ssh;
mod steps;
mod storage;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

pub(crate) use build::{BuildArgs, PullPolicy};
pub(crate) use builds::{BuildsArgs, BuildsCommand, ExplainArgs, LogsArgs};
pub(crate) use images::{
    DiffArgs, ExportArgs, HistoryArgs, ImagePruneArgs, ImagesArgs, ImportArgs, InspectArgs, LoadArgs,
    LoginArgs, LogoutArgs, RmiArgs, SaveArgs, TagArgs, TransferArgs,
};
pub(crate) use storage::{DoctorArgs, DuArgs, PruneArgs, SystemDfArgs, SystemPruneArgs};

/// Builds container images from Dockerfiles; no daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    /// Print what kiln does, for its developers
    #[arg(short = 'D', long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub debug: bool,
    /// The store's directory
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// One variant a command; each has its file in `command/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// List past builds, show one, or forget them
    Builds(BuildsArgs),
    /// Say which files of two images differ, and by which step
    Diff(DiffArgs),
    /// Say what this machine has of all that builds need, or whether the store is sound
    Doctor(DoctorArgs),
    /// Say what takes the store's space
    Du(DuArgs),
    /// Say why steps of a build ran and were not cached
    Explain(ExplainArgs),
    /// Write an image's files as a tar
    Export(ExportArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// List images
    Images(ImagesArgs),
    /// Make an image of the files in a tar
    Import(ImportArgs),
    /// Return low-level information on images, as JSON
    Inspect(InspectArgs),
    /// Load images from a tar archive or standard input
    Load(LoadArgs),
    /// Remove images that have no name (docker's `image prune`)
    #[command(name = "image-prune", hide = true)]
    ImagePrune(ImagePruneArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Show what steps of a build printed, cached ones too
    Logs(LogsArgs),
    /// Remove what builds keep for later builds
    Prune(PruneArgs),
    /// Download an image from a registry
    Pull(TransferArgs),
    /// Write down what the sources of a Dockerfile are, for `kiln build --locked`
    Lock(Box<LockArgs>),
    /// Upload an image to a registry
    Push(TransferArgs),
    /// Remove one or more images
    Rmi(RmiArgs),
    /// Run a command in a new container
    Run(Box<RunArgs>),
    /// Save one or more images to a tar archive
    Save(SaveArgs),
    /// Sum up what takes the store's space (docker's `system df`)
    #[command(name = "system-df", hide = true)]
    SystemDf(SystemDfArgs),
    /// Remove images without a name and the build cache (docker's `system prune`)
    #[command(name = "system-prune", hide = true)]
    SystemPrune(SystemPruneArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Print kiln's version
    Version,
}

/// `kiln lock`: of a build's arguments those that decide what the sources are.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct LockArgs {
    /// Write nothing; fail where a source is not what the lock says
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `kiln run`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    disable_help_flag = true,
    override_usage = "kiln run [OPTIONS] IMAGE [COMMAND] [ARG...]"
)]
pub(crate) struct RunArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Remove the container when it exits (it always is)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; `NAME` alone takes its value from the environment
    #[arg(short, long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub env_file: Vec<PathBuf>,
    /// Mount a directory or file of the host
    #[arg(short, long = "volume", value_name = "HOST:PATH[:ro]", allow_hyphen_values = true)]
    pub volumes: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR", allow_hyphen_values = true)]
    pub workdir: Option<String>,
    /// The user
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    pub user: Option<String>,
    /// The host name
    #[arg(short = 'h', long, value_name = "NAME", allow_hyphen_values = true)]
    pub hostname: Option<String>,
    /// In place of the image's ENTRYPOINT
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub entrypoint: Option<String>,
    /// `host`, `isolated` (one of its own, by pasta) or `none`
    #[arg(
        long,
        visible_alias = "net",
        value_name = "MODE",
        default_value = "host",
        allow_hyphen_values = true
    )]
    pub network: String,
    /// Name or id, and the command in place of CMD; whatever follows the image is the command's
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_command: Vec<String>,
}

/// A command line that cannot be understood, and how to say so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError {
    /// What is wrong with it.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// Docker's: 125 for `run`, whose own statuses are the process's, else 1.
    pub status: u8,
}

/// What the words ask for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command.
    Run(Box<Cli>),
    /// To be printed on standard output: help or version.
    Print(String),
}

/// Understands a whole command line, the program's own name first.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let words = normalise(words.into_iter().collect());
    let command = command_among(&words);
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(error.render().to_string()))
        }
        Err(error) => Err(usage_error(&error, &command)),
    }
}

/// The command of a line that may begin with flags that are for all of them.
fn command_among(words: &[OsString]) -> String {
    let mut words = words.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        match word {
            "--root" => _ = words.next(),
            word if word.starts_with('-') => {}
            word => return word.to_owned(),
        }
    }
    String::new()
}

/// Called as `build`, the command is `build`; docker's longer spellings (`image ls`, `buildx build`) become the short.
fn normalise(mut words: Vec<OsString>) -> Vec<OsString> {
    let program = words.first().map(PathBuf::from).unwrap_or_default();
    if program.file_name() == Some(OsStr::new("build")) && words.get(1).is_none_or(|word| word != "--version")
    {
        words.insert(1, "build".into());
        return words;
    }
    let group = words.get(1).and_then(|word| word.to_str());
    let action = words.get(2).and_then(|word| word.to_str());
    let short = match (group, action) {
        (Some("builder" | "buildx" | "image"), Some("build")) | (Some("buildx"), Some("b")) => "build",
        (Some("builder" | "buildx"), Some("prune")) => "prune",
        (Some("buildx"), Some("du")) => "du",
        (Some("image"), Some("prune")) => "image-prune",
        (Some("system"), Some("df")) => "system-df",
        (Some("system"), Some("prune")) => "system-prune",
        (Some("image"), Some("ls" | "list")) => "images",
        (Some("image"), Some("rm" | "remove")) => "rmi",
        (Some("image"), Some("history")) => "history",
        (Some("image"), Some("inspect")) => "inspect",
        (Some("image"), Some("import")) => "import",
        (Some("image"), Some("load")) => "load",
        (Some("image"), Some("pull")) => "pull",
        (Some("image"), Some("save")) => "save",
        (Some("image"), Some("tag")) => "tag",
        (Some("container"), Some("run")) => "run",
        _ => return words,
    };
    words.splice(1..3, [OsString::from(short)]);
    words
}

/// Words clap's finding as docker does.
fn usage_error(error: &clap::Error, command: &str) -> UsageError {
    let known = Cli::known_command(command);
    let place = if known { format!("kiln {command}") } else { "kiln".to_owned() };
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // Of suggestions the nearest comes last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let given = text(ContextKind::InvalidArg).unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument
            if command == "build" && !given.starts_with('-') =>
        {
            "`kiln build` requires exactly 1 argument: PATH, URL or `-`".to_owned()
        }
        ErrorKind::UnknownArgument if given.starts_with('-') => format!("unknown flag: {given}"),
        ErrorKind::UnknownArgument => format!("`{place}` takes no further argument `{given}`"),
        ErrorKind::MissingRequiredArgument => format!("`{place}` requires {given}"),
        ErrorKind::InvalidSubcommand => {
            format!("unknown command: {}", text(ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "which command?".to_owned()
        }
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    // To clap a flag of two letters is near to many words.
    let is_near = |flag: &String| 2 * flag.len() > given.len();
    let nearest =
        text(ContextKind::SuggestedArg).filter(is_near).or_else(|| text(ContextKind::SuggestedSubcommand));
    let hint = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`? See '{place} --help'"),
        None => format!("See '{place} --help'"),
    };
    UsageError { message, hint, status: if command == "run" { 125 } else { 1 } }
}

impl Cli {
    fn known_command(name: &str) -> bool {
        use clap::CommandFactory as _;
        Self::command().find_subcommand(name).is_some()
    }
}

/// The value of a flag that is true or false.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    kiln::boolean(text).ok_or_else(|| "expected true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &[&str]) -> Cli {
        match parse(line.iter().map(OsString::from)) {
            Ok(Parsed::Run(cli)) => *cli,
            other => panic!("{other:?}"),
        }
    }

    fn build(line: &[&str]) -> BuildArgs {
        match cli(line).command {
            Command::Build(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &[&str]) -> RunArgs {
        match cli(line).command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn refused(line: &[&str]) -> UsageError {
        parse(line.iter().map(OsString::from)).unwrap_err()
    }

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn called_as_build_the_program_is_kiln_build() {
        let args =
            build(&["/usr/bin/build", "-t", "name", "-f", "Dockerfile.dev", "--build-arg", "UID=1000", "."]);
        assert_eq!(args.tags, ["name"]);
        assert_eq!(args.files, ["Dockerfile.dev"]);
        assert_eq!(args.build_args, ["UID=1000"]);
        assert_eq!(args.context, ".");
    }

    #[test]
    fn short_flags_take_their_value_in_all_of_dockers_ways() {
        for line in [
            &["kiln", "build", "-t=x", "."][..],
            &["kiln", "build", "-tx", "."],
            &["kiln", "build", "-qtx", "."],
        ] {
            assert_eq!(build(line).tags, ["x"], "{line:?}");
        }
    }

    #[test]
    fn a_boolean_is_on_alone_and_off_when_told_so() {
        assert!(build(&["kiln", "build", "-q", "."]).quiet);
        assert!(!build(&["kiln", "build", "-q=false", "."]).quiet);
        assert!(build(&["kiln", "build", "--no-cache=1", "."]).no_cache);
    }

    #[test]
    fn what_is_pulled_is_a_boolean_or_a_word() {
        let pull = |flags: &[&str]| build(&[&["kiln", "build"], flags, &["."]].concat()).pull;
        for always in ["--pull", "--pull=true", "--pull=1", "--pull=always", "--pull=newer"] {
            assert_eq!(pull(&[always]), PullPolicy::Always, "{always}");
        }
        assert_eq!([pull(&[]), pull(&["--pull=false"]), pull(&["--pull=missing"])], [PullPolicy::Missing; 3]);
        assert_eq!(pull(&["--pull=never"]), PullPolicy::Never);
        assert!(
            refused(&["kiln", "build", "--pull=often", "."]).message.contains("expected true, false, always")
        );
    }

    #[test]
    fn flags_may_follow_the_context() {
        let args = build(&["kiln", "build", ".", "-t", "x", "--no-cache"]);
        assert_eq!((args.context.as_os_str(), args.no_cache), (OsStr::new("."), true));
    }

    #[test]
    fn a_dash_is_a_context_and_a_dockerfile() {
        assert_eq!(build(&["kiln", "build", "-"]).context, "-");
        assert_eq!(build(&["kiln", "build", "-f-", "."]).files, ["-"]);
        assert_eq!(build(&["kiln", "build", "-f", "-", "."]).files, ["-"]);
        assert_eq!(build(&["kiln", "build", "-o", "-", "."]).outputs, ["-"]);
    }

    #[test]
    fn a_value_may_start_with_a_dash() {
        assert_eq!(build(&["kiln", "build", "--build-arg", "-O=2", "."]).build_args, ["-O=2"]);
    }

    #[test]
    fn the_first_builders_flags_are_taken_and_ignored() {
        let args = build(&[
            "kiln",
            "build",
            "--compress",
            "--rm",
            "--force-rm",
            "--layers=false",
            "--rm=false",
            ".",
        ]);
        assert_eq!(args.legacy.ignored(), ["--layers=false"]);
    }

    #[test]
    fn a_policy_is_refused_unless_it_is_switched_off() {
        let policy =
            |text: &str| build(&["kiln", "build", "--policy", text, "."]).legacy.policy().map(str::to_owned);
        assert_eq!(policy("disabled=true"), None);
        assert_eq!(policy("reset=true,disabled"), None);
        assert_eq!(policy("disabled=false"), Some("disabled=false".into()));
        assert_eq!(policy("filename=a.rego,strict=true"), Some("filename=a.rego,strict=true".into()));
    }

    #[test]
    fn other_builders_words_for_a_flag_are_that_flag() {
        let args = build(&["kiln", "build", "--dockerfile", "D", "--print=outline", "-d", "r/a", "."]);
        assert_eq!((args.files, args.call.as_str()), (vec!["D".to_owned()], "outline"));
        assert!(args.kaniko.pushes());
        assert!(!build(&["kiln", "build", "-d", "r/a", "--no-push", "."]).kaniko.pushes());
    }

    #[test]
    fn flags_before_the_command_do_not_hide_it() {
        let error = refused(&["kiln", "--root", "/s", "-D", "build"]);
        assert_eq!(error.message, "`kiln build` requires exactly 1 argument: PATH, URL or `-`");
        assert_eq!(refused(&["kiln", "--root", "/s", "run", "--nope"]).status, 125);
    }

    #[test]
    fn dockers_longer_spellings_are_the_same_commands() {
        assert_eq!(build(&["kiln", "buildx", "build", "-t", "x", "."]).tags, ["x"]);
        assert!(matches!(cli(&["kiln", "image", "ls"]).command, Command::Images(_)));
    }

    #[test]
    fn build_takes_exactly_one_context() {
        for line in [&["kiln", "build"][..], &["kiln", "build", "a", "b"], &["build", "-t", "x"]] {
            let error = refused(line);
            assert_eq!(
                error.message, "`kiln build` requires exactly 1 argument: PATH, URL or `-`",
                "{line:?}"
            );
            assert_eq!((error.hint.as_str(), error.status), ("See 'kiln build --help'", 1));
        }
    }

    #[test]
    fn an_unknown_flag_names_the_closest_one() {
        let error = refused(&["kiln", "build", "--tagg", "x", "."]);
        assert_eq!(error.message, "unknown flag: --tagg");
        assert_eq!(error.hint, "did you mean `--tag`? See 'kiln build --help'");
        assert_eq!(refused(&["kiln", "run", "--nope", "x"]).status, 125);
    }

    #[test]
    fn runs_flags_stop_at_the_image() {
        let args = run(&["kiln", "run", "--rm", "-it", "-e", "A=1", "busybox", "ls", "-l", "--rm=x", "-e"]);
        assert_eq!((args.rm, args.interactive, args.tty, args.env.len()), (true, true, true, 1));
        assert_eq!(args.image_and_command, ["busybox", "ls", "-l", "--rm=x", "-e"]);
    }

    #[test]
    fn help_and_version_are_for_standard_output() {
        assert!(matches!(parse(["kiln", "build", "--help"].map(OsString::from)), Ok(Parsed::Print(_))));
        assert!(matches!(parse(["kiln", "--version"].map(OsString::from)), Ok(Parsed::Print(_))));
        assert!(matches!(parse(["build", "--version"].map(OsString::from)), Ok(Parsed::Print(_))));
    }
}
