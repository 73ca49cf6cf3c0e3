//! What a Dockerfile says, typed. Words are kept **unexpanded**: expansion needs the values in effect and is done by
//! the planner with [`crate::expand`].

use std::borrow::Cow;

use crate::heredoc;
use crate::instruction::mount;
use crate::{MountProblem, Span, Spanned, Warning};

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// `# syntax=`, `# escape=`, `# check=`.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<Spanned<Vec<ArgPair>>>,
    /// The comment block right above each of them, without `#`.
    pub global_comments: Vec<Vec<String>>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
    /// What BuildKit's rules find in the text alone; see [`Dockerfile::findings`] for what is wanted of it.
    pub warnings: Vec<Warning>,
}

/// The parser directives at the top (Dockerfile reference, "Parser directives").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The frontend image asked for.
    pub syntax: Option<Spanned<String>>,
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// The value of `# check=`.
    pub check: Option<Spanned<String>>,
}

/// One `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// `AS name`, lower-cased.
    pub name: Option<Spanned<String>>,
    /// The base's name, unexpanded.
    pub base: Spanned<String>,
    /// `--platform=`, unexpanded.
    pub platform: Option<Spanned<String>>,
    /// `--after=`, unexpanded: an earlier stage, by name or number, that is complete before this one starts.
    pub after: Option<Spanned<String>>,
    /// Text of the FROM line as written.
    pub original: String,
    /// The comment block right above FROM, without `#`: the stage's description.
    pub comment: Vec<String>,
    /// The FROM instruction.
    pub span: Span,
    /// What follows.
    pub instructions: Vec<Instruction>,
}

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it is.
    pub kind: InstructionKind,
    /// The whole instruction, heredoc bodies included.
    pub span: Span,
    /// Its text with continuations joined, keyword as written, comments and heredoc bodies left out. This is what
    /// progress shows.
    pub original: String,
    /// The comment block right above, without `#`.
    pub comment: Vec<String>,
}

/// The instructions, one variant each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ADD`.
    Add(Add),
    /// `ARG`, one pair a name.
    Arg(Vec<ArgPair>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`.
    Env(Vec<KeyValue>),
    /// `EXPOSE`: the words, unexpanded.
    Expose(Vec<Spanned<String>>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<KeyValue>),
    /// `MAINTAINER` (deprecated).
    Maintainer(Spanned<String>),
    /// `ONBUILD`: the trigger's text, heredoc bodies included, and what it parses to.
    Onbuild(Onbuild),
    /// `RUN`.
    Run(Box<Run>),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    Stopsignal(Spanned<String>),
    /// `USER`.
    User(Spanned<String>),
    /// `VOLUME`.
    Volume(Vec<Spanned<String>>),
    /// `WORKDIR`.
    Workdir(Spanned<String>),
}

/// `NAME` or `NAME=default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgPair {
    /// The name (unexpanded).
    pub name: Spanned<String>,
    /// The default, unexpanded, quotes kept.
    pub default: Option<Spanned<String>>,
}

/// A pair of ENV or LABEL; both sides unexpanded, quotes kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Left of `=`.
    pub key: Spanned<String>,
    /// Right of it.
    pub value: Spanned<String>,
    /// Whether it is in the old form, `ENV name value`.
    pub is_legacy: bool,
}

/// The two ways to write a command (Dockerfile reference, "Shell and exec form").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A string for SHELL. Continuations are joined.
    Shell(String),
    /// A JSON array.
    Exec(Vec<String>),
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes: the file's name for COPY and ADD.
    pub name: String,
    /// The file descriptor number before `<<`; 0 where none is written.
    pub fd: u32,
    /// Whether variables in the body are expanded (the delimiter is not quoted).
    pub expand: bool,
    /// `<<-`.
    pub chomp: bool,
    /// The body, tabs already removed for `<<-`.
    pub body: String,
    /// The body as written: what the shell of `RUN cat <<-EOF` is given.
    pub raw: String,
    /// The body's place.
    pub span: Span,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command; for a heredoc the text of the line without bodies (`<<EOF`, `cat <<EOF > /f`).
    pub command: Command,
    /// Heredocs in order. A sole `<<EOF` word makes the body the script.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Spanned<Mount>>,
    /// `--network`.
    pub network: Option<Spanned<RunNetwork>>,
    /// `--security`.
    pub security: Option<Spanned<RunSecurity>>,
    /// `--device`, in order.
    pub devices: Vec<Spanned<Device>>,
    /// The flags as written (for the step's name).
    pub flags: Vec<String>,
}

/// `RUN --device=`: a device that the host describes (FEATURES RN35).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// `vendor/class`, `vendor/class=name`, `vendor/class=*` or the word that devices have as their class.
    pub name: String,
    /// The step fails without it.
    pub required: bool,
}

impl Run {
    /// Returns the heredoc whose body is the script: the command is a sole `<<EOF` word.
    pub fn script(&self) -> Option<&Heredoc> {
        match (&self.command, self.heredocs.as_slice()) {
            (Command::Shell(text), [heredoc]) if heredoc::in_word(text).is_some() => Some(heredoc),
            _ => None,
        }
    }

    /// Returns the text for SHELL, also the one that history keeps; `None` for the exec form.
    ///
    /// A script that begins with `#!` is not the shell's but a program of its own: see [`Run::script`] before this.
    pub fn shell_text(&self) -> Option<Cow<'_, str>> {
        let Command::Shell(text) = &self.command else { return None };
        if let Some(script) = self.script() {
            return Some(Cow::Borrowed(&script.body));
        }
        if self.heredocs.is_empty() {
            return Some(Cow::Borrowed(text));
        }
        // The shell reads the heredocs itself, so their bodies go back to where they were.
        let mut full = text.clone();
        for heredoc in &self.heredocs {
            full.push('\n');
            full.push_str(&heredoc.raw);
            full.push_str(&heredoc.name);
        }
        Some(Cow::Owned(full))
    }
}

/// `RUN --network=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunNetwork {
    /// The build's own setting.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --security=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunSecurity {
    /// Docker's defaults.
    Sandbox,
    /// All capabilities; needs a permission.
    Insecure,
}

/// `RUN --mount=`, checked for its type (FEATURES RN16–RN32). Strings are unexpanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The type with the options that only it has.
    pub kind: MountKind,
    /// `from`: stage, named context or image, which must be there whatever the type shows of it; `None` is the build
    /// context.
    pub from: Option<String>,
    /// `target`/`dst`/`destination`; may be relative to WORKDIR. `None` for a secret or ssh without one.
    pub target: Option<String>,
    /// `noexec`, as in buildah: no program in it can be started.
    pub no_exec: bool,
    /// `U` or `chown`, as in buildah: a new cache or tmpfs, or what a bind shows, belongs to the step's user.
    pub of_user: bool,
    /// The flag's value as written.
    pub written: String,
}

impl Mount {
    /// Parses a mount as the flag has it; one with variables is to be [expanded](Mount::expanded).
    ///
    /// # Errors
    /// See [`MountProblem`].
    pub fn parse(text: &str) -> Result<Self, MountProblem> {
        mount::parse(text)
    }

    /// Parses the mount again, every value passed through `expand` first.
    ///
    /// Until then a value of a typed option (`mode=$MODE`, `type=$TYPE`) that has a variable in it counts as absent.
    ///
    /// # Errors
    /// What `expand` returns, and what is wrong with the values it made.
    pub fn expanded<E: From<MountProblem>>(
        &self,
        mut expand: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        mount::parse_expanded(&self.written, &mut expand)
    }
}

/// The kinds of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// `type=bind`.
    Bind {
        /// `source`, `/` by default.
        source: String,
        /// `rw`: writes go to a layer that is thrown away.
        writable: bool,
    },
    /// `type=cache`.
    Cache {
        /// `id`, by default the target as written and cleaned.
        id: Option<String>,
        /// `source`, `/` by default: a path of what the cache begins with, or, without `from`, of the cache.
        source: String,
        /// `sharing`.
        sharing: CacheSharing,
        /// `ro`.
        read_only: bool,
        /// `mode` in octal, of a new directory.
        mode: Option<u32>,
        /// `uid` of a new directory.
        uid: Option<u32>,
        /// `gid` of a new directory.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// Bytes; `None` is the kernel's default.
        size: Option<u64>,
        /// `ro`.
        read_only: bool,
    },
    /// `type=secret`.
    Secret {
        /// `id`.
        id: Option<String>,
        /// `env`: a variable instead of (or beside) a file.
        env: Option<String>,
        /// `required`.
        required: bool,
        /// `mode`.
        mode: Option<u32>,
        /// `uid`.
        uid: Option<u32>,
        /// `gid`.
        gid: Option<u32>,
    },
    /// `type=ssh`.
    Ssh {
        /// `id`, `default` by default.
        id: Option<String>,
        /// `required`.
        required: bool,
        /// `mode`.
        mode: Option<u32>,
        /// `uid`.
        uid: Option<u32>,
        /// `gid`.
        gid: Option<u32>,
    },
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheSharing {
    /// Writers at once.
    #[default]
    Shared,
    /// A new directory if this one is in use.
    Private,
    /// The second waits.
    Locked,
}

/// `COPY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Sources in order, heredocs among them.
    pub sources: Vec<CopySource>,
    /// The destination, unexpanded.
    pub dest: Spanned<String>,
    /// `--from`, literal.
    pub from: Option<Spanned<String>>,
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, literal.
    pub exclude: Vec<Spanned<String>>,
}

/// `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What it shares with COPY; `from` is `None`.
    pub copy: Copy,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path, pattern, URL or git reference, unexpanded.
    Path(Spanned<String>),
    /// An inline file.
    Heredoc(Heredoc),
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`.
    None,
    /// `CMD`.
    Check {
        /// The command.
        command: Command,
        /// Nanoseconds; 0 inherits. Order: interval, timeout, start period, start interval.
        interval: u64,
        /// Nanoseconds.
        timeout: u64,
        /// Nanoseconds.
        start_period: u64,
        /// Nanoseconds.
        start_interval: u64,
        /// Count; 0 inherits.
        retries: u32,
    },
}

/// `ONBUILD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// What the image config stores.
    pub trigger: String,
    /// What it parses to; `None` where it is wrong, which as in BuildKit only a build on this image minds.
    pub instruction: Option<Box<Instruction>>,
}
