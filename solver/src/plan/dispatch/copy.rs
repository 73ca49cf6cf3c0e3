//! COPY and ADD (FEATURES CP).

use kiln_image::Digest;
use kiln_parser::ignore::Verdict;
use kiln_parser::{Add, Copy, CopySource, Span};

use super::Step;
use super::remote::{SourceKind, kind};
use crate::git_url::{GitUrl, check_checksum, redacted};
use crate::graph::{
    CopyOptions, File, FileAction, GitSource, InputIndex, ModeChange, Op, Owner, Source, Vertex, VertexId,
};
use crate::plan::arguments::target_platform;
use crate::plan::bases::{build_context, scratch, source};
use crate::plan::history::Made;
use crate::plan::names::instruction_text;
use crate::plan::stages::StageNumbers;
use crate::plan::{PlanError, paths};

/// The highest octal mode.
const MAX_MODE: u32 = 0o7777;

/// Takes COPY.
pub(super) fn copy(step: &mut Step<'_, '_>, copy: &Copy) -> Result<(), PlanError> {
    let from = copy.from.as_ref().filter(|from| !from.value.is_empty());
    let root = match from {
        None => None,
        Some(from) => {
            let span = step.place(from.span);
            let root = step.planner.root_of(from, StageNumbers::Allowed, step.state.index, span)?;
            let later = || PlanError::CopyFromLaterStage {
                from: from.value.clone(),
                current: step.planner.stages.get(step.state.index).display_name.clone(),
                span,
            };
            Some(root.ok_or_else(later)?.vertex())
        }
    };
    add_files(step, "COPY", copy, root, None)
}

/// Takes ADD.
pub(super) fn add(step: &mut Step<'_, '_>, add: &Add) -> Result<(), PlanError> {
    add_files(step, "ADD", &add.copy, None, Some(add))
}

/// What COPY and ADD share. `from` is where local sources are; without it, in the build context.
fn add_files(
    step: &mut Step<'_, '_>,
    keyword: &'static str,
    copy: &Copy,
    from: Option<VertexId>,
    add: Option<&Add>,
) -> Result<(), PlanError> {
    let span = step.span();
    let cache = step.cache_use()?;
    let words = Words::expand(step, copy, add)?;
    let dest = paths::destination(&step.state.directory(), &words.dest);
    let created_by = words.text(keyword, copy.parents);
    let shown = redacted(&instruction_text(&step.instruction.original, &step.state.environment, &[]));
    let name = step.state.names.next(&shown, step.author);

    let options = CopyOptions {
        owner: words.chown.as_ref().map(|owner| Owner(owner.clone())),
        mode: words.chmod.as_deref().map(|mode| parse_mode(mode, span)).transpose()?,
        parents: copy.parents,
        exclude: copy.exclude.iter().map(|pattern| pattern.value.clone()).collect(),
        unpack: false,
        rename: None,
        as_root: false,
    };
    let mut actions = Actions { list: Vec::new(), sources: Vec::new(), dest, options };
    // BuildKit counts paths only, and says the same of none.
    if words.checksum.is_some() && words.sources.len() != 1 {
        return Err(PlanError::MisplacedChecksum {
            problem: "can't be specified for multiple sources",
            span,
        });
    }
    for path in &words.sources {
        let kind = kind(path).map_err(|problem| PlanError::InvalidGitSource {
            url: redacted(path),
            problem,
            span,
        })?;
        match (kind, add) {
            (SourceKind::Local, _) => {
                if words.checksum.is_some() {
                    return Err(PlanError::MisplacedChecksum {
                        problem: "requires HTTP(S) or Git sources",
                        span,
                    });
                }
                let unpack = add.is_some_and(|add| add.unpack.unwrap_or(true));
                if from.is_none() {
                    warn_ignored(step, path, add.is_some());
                }
                // Only now: an instruction of heredocs alone needs no context.
                let platform = target_platform(step.planner.request);
                let root = from.unwrap_or_else(|| build_context(platform, &mut step.planner.vertices));
                actions.local(path, root, unpack);
            }
            (SourceKind::Url { .. }, None) => {
                return Err(PlanError::RemoteCopy { kind: "URL", source_path: path.clone(), span });
            }
            (SourceKind::Git(_), None) => {
                return Err(PlanError::RemoteCopy { kind: "git ref", source_path: path.clone(), span });
            }
            (SourceKind::Url { file_name }, Some(add)) => {
                let checksum =
                    words.checksum.as_deref().map(|text| parse_checksum(text, span)).transpose()?;
                let file = Source::Http { url: path.clone(), checksum };
                let input = fetched(step, file, &name);
                actions.url(input, file_name, add.unpack.unwrap_or(false));
            }
            (SourceKind::Git(git), Some(add)) => {
                let tree = git_source(git, add, words.checksum.as_deref(), path, span)?;
                let input = fetched(step, tree, &name);
                actions.tree(input);
            }
        }
    }
    for (name, contents) in &words.contents {
        actions.list.push(FileAction::MakeFile {
            name: name.clone(),
            dest: actions.dest.clone(),
            contents: contents.clone(),
            options: actions.options.clone(),
        });
    }

    let vertex = |op: Op, name: String, step: &Step<'_, '_>| Vertex {
        op,
        name,
        span: Some(span),
        created_by: created_by.clone(),
        cache,
        platform: step.state.platform.clone(),
    };
    let file = Op::File(File { actions: actions.list });
    let below = step.state.root;
    // BuildKit does not link what has a `--chmod` (FEATURES CP18).
    step.state.root = if copy.link && words.chmod.is_none() {
        let nothing = scratch(target_platform(step.planner.request), &mut step.planner.vertices);
        let inputs: Vec<VertexId> = std::iter::once(nothing).chain(actions.sources).collect();
        let copied = step.planner.vertices.add(vertex(file, name, step), &inputs);
        let name = step.state.names.again(&format!("LINK {shown}"), step.author);
        step.planner.vertices.add(vertex(Op::Merge, name, step), &[below, copied])
    } else {
        let inputs: Vec<VertexId> = std::iter::once(below).chain(actions.sources).collect();
        step.planner.vertices.add(vertex(file, name, step), &inputs)
    };
    step.planner.record(step.state, created_by, Made::Layer, span)
}

/// The instruction's words, expanded.
struct Words {
    sources: Vec<String>,
    /// Heredocs: name and body.
    contents: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
}

impl Words {
    fn expand(step: &mut Step<'_, '_>, copy: &Copy, add: Option<&Add>) -> Result<Self, PlanError> {
        let given = |word: Option<String>| word.filter(|word| !word.is_empty());
        let chown = given(step.expand_option(copy.chown.as_ref())?);
        let chmod = given(step.expand_option(copy.chmod.as_ref())?);
        let checksum = given(step.expand_option(add.and_then(|add| add.checksum.as_ref()))?);
        let mut sources = Vec::new();
        for source in &copy.sources {
            if let CopySource::Path(path) = source {
                sources.push(step.expand(path)?);
            }
        }
        let dest = step.expand(&copy.dest)?;
        let mut contents = Vec::new();
        for source in &copy.sources {
            if let CopySource::Heredoc(heredoc) = source {
                let body =
                    if heredoc.expand { step.expand_body(&heredoc.body)? } else { heredoc.body.clone() };
                contents.push((heredoc.name.clone(), body));
            }
        }
        Ok(Self { sources, contents, dest, chown, chmod, checksum })
    }

    /// As the history has it: paths come before heredocs, `--link` and `--exclude` are left out.
    fn text(&self, keyword: &str, parents: bool) -> String {
        let mut text = keyword.to_owned();
        let mut add = |words: &[&str]| {
            text.push(' ');
            text.extend(words.iter().copied());
        };
        if parents {
            add(&["--parents"]);
        }
        if let Some(chown) = &self.chown {
            add(&["--chown=", chown]);
        }
        if let Some(chmod) = &self.chmod {
            add(&["--chmod=", chmod]);
        }
        for source in &self.sources {
            // A password in an address is nobody's business who has the image (THREATS D4).
            add(&[&redacted(source)]);
        }
        for (name, _) in &self.contents {
            add(&["<<", name]);
        }
        add(&[&self.dest]);
        text
    }
}

/// The file operation while it grows.
struct Actions {
    list: Vec<FileAction>,
    /// Inputs after the tree that is changed.
    sources: Vec<VertexId>,
    dest: String,
    options: CopyOptions,
}

impl Actions {
    fn input(&mut self, vertex: VertexId) -> InputIndex {
        let known = self.sources.iter().position(|source| *source == vertex);
        let place = known.unwrap_or_else(|| {
            self.sources.push(vertex);
            self.sources.len() - 1
        });
        InputIndex(place + 1)
    }

    fn local(&mut self, path: &str, root: VertexId, unpack: bool) {
        let input = self.input(root);
        let source = match path.split_once("/./").filter(|_| self.options.parents) {
            // What stands left of the pivot is not made at the destination.
            Some((left, right)) => {
                let left = paths::join("/", left);
                format!("{}/.{}", left.trim_end_matches('/'), paths::join("/", right))
            }
            None => paths::join("/", path),
        };
        let options = CopyOptions { unpack, ..self.options.clone() };
        self.list.push(FileAction::Copy { input, source, dest: self.dest.clone(), wildcard: true, options });
    }

    fn url(&mut self, vertex: VertexId, file_name: String, unpack: bool) {
        let input = self.input(vertex);
        let source = format!("/{file_name}");
        let options =
            CopyOptions { unpack, parents: false, rename: Some(file_name.into()), ..self.options.clone() };
        self.list.push(FileAction::Copy { input, source, dest: self.dest.clone(), wildcard: false, options });
    }

    fn tree(&mut self, vertex: VertexId) {
        let input = self.input(vertex);
        let options = CopyOptions { parents: false, ..self.options.clone() };
        let action =
            FileAction::Copy { input, source: "/".into(), dest: self.dest.clone(), wildcard: false, options };
        self.list.push(action);
    }
}

/// Warns of a source that the ignore file hides. With exceptions in it that cannot be told from the path alone: a
/// directory may be out and a file in it in.
fn warn_ignored(step: &mut Step<'_, '_>, path: &str, is_add: bool) {
    let rules = &step.planner.request.ignore;
    if rules.is_empty() || rules.has_exceptions() {
        return;
    }
    let path = paths::clean(path);
    // The context as a whole is no path that could be hidden, unless everything is.
    let is_root = path == "." || path == "/";
    if (!is_root || rules.covers_root()) && rules.verdict(&path) != Verdict::Keep {
        let span = step.span();
        step.planner.warnings.ignored_source(if is_add { "Add" } else { "Copy" }, &path, span);
    }
}

/// The vertex that fetches a source.
fn fetched(step: &mut Step<'_, '_>, what: Source, name: &str) -> VertexId {
    let platform = target_platform(step.planner.request);
    source(what, name.to_owned(), Some(step.instruction.span), platform, &mut step.planner.vertices)
}

fn git_source(
    git: GitUrl,
    add: &Add,
    checksum: Option<&str>,
    url: &str,
    span: Span,
) -> Result<Source, PlanError> {
    let invalid = |problem: String| PlanError::InvalidGitSource { url: redacted(url), problem, span };
    let keep_git_dir = match (add.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(invalid("inconsistent keep-git-dir configuration".into()));
        }
        (flag, query) => query.or(flag).unwrap_or(false),
    };
    let checksum = match (checksum, git.source.checksum) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(invalid(format!("checksum mismatch {flag:?} != {query:?}")));
        }
        (flag, query) => query.or(flag.map(str::to_owned)),
    };
    if let Some(checksum) = &checksum {
        check_checksum(checksum).map_err(invalid)?;
    }
    Ok(Source::Git(GitSource { keep_git_dir, checksum, ..git.source }))
}

fn parse_checksum(text: &str, span: Span) -> Result<Digest, PlanError> {
    text.parse().map_err(|_| {
        let problem = match text.split_once(':') {
            Some(("sha256", hex)) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                "invalid checksum digest length"
            }
            None | Some(("sha256" | "", _)) => "invalid checksum digest format",
            Some(_) => "unsupported digest algorithm",
        };
        PlanError::InvalidChecksum { value: text.to_owned(), problem, span }
    })
}

/// Octal up to 07777, or symbols such as `u=rwX,go-w` (FEATURES CP15, CP16).
fn parse_mode(text: &str, span: Span) -> Result<ModeChange, PlanError> {
    let invalid = || PlanError::InvalidMode { value: text.to_owned(), span };
    if text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= MAX_MODE);
        return bits.map(ModeChange::Octal).ok_or_else(invalid);
    }
    let looks_octal = text.starts_with(|c: char| c.is_ascii_digit());
    if looks_octal || !crate::solve::is_symbolic_mode(text) {
        return Err(invalid());
    }
    Ok(ModeChange::Symbolic(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal_or_symbolic() {
        let mode = |text| parse_mode(text, Span::default()).ok();
        assert_eq!(mode("0755"), Some(ModeChange::Octal(0o755)));
        assert_eq!(mode("4755"), Some(ModeChange::Octal(0o4755)));
        for text in ["u=rwX,go=rX", "+x", "g=u", "a-w+r", "u=go", "+t"] {
            assert_eq!(mode(text), Some(ModeChange::Symbolic(text.into())), "{text}");
        }
        for text in ["99z", "10000", "0o755", "u", "u=q", "789", "u+x,"] {
            assert_eq!(mode(text), None, "{text}");
        }
    }
}
