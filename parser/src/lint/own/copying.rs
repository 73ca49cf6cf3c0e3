//! COPY and ADD: what they cost at the place where they stand.

use std::collections::HashSet;

use crate::lint::Findings;
use crate::lint::command::{Simple, run_step};
use crate::{Copy, CopySource, Dockerfile, InstructionKind, Span};

/// AddInsteadOfCopy.
pub(in crate::lint) fn add_of_a_plain_file(file: &Dockerfile, found: &mut Findings) {
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        let InstructionKind::Add(add) = &instruction.kind else { continue };
        let is_plain = |source: &CopySource| match source {
            CopySource::Heredoc(_) => true,
            CopySource::Path(path) => !path.contains("://") && !path.starts_with("git@") && !is_archive(path),
        };
        if add.unpack.is_none() && add.checksum.is_none() && add.copy.sources.iter().all(is_plain) {
            found.add("ADD only copies here: write COPY, which never unpacks or downloads", instruction.span);
        }
    }
}

/// CopyBeforeDependencyInstall: the COPY is told, once, when an install follows in its stage.
pub(in crate::lint) fn before_install(file: &Dockerfile, found: &mut Findings) {
    for stage in &file.stages {
        let mut whole: Option<Span> = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Copy(copy) if copies_everything(copy) => {
                    whole.get_or_insert(instruction.span);
                }
                _ => {}
            }
            let Some(step) = run_step(instruction) else { continue };
            if let (Some(span), Some(name)) = (whole, step.commands.iter().find_map(installs)) {
                let message = format!(
                    "All sources are copied before `{name}` on line {}, which thus runs anew after every change: copy the files that list the dependencies first",
                    instruction.span.line
                );
                found.add(message, span);
                break;
            }
        }
    }
}

/// ChownDoublesFiles.
pub(in crate::lint) fn chown_of_copied_files(file: &Dockerfile, found: &mut Findings) {
    for stage in &file.stages {
        // The destinations and the directories that they are in.
        let mut copied: HashSet<String> = HashSet::new();
        let mut directory = String::from("/");
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Workdir(path) => directory = absolute(&directory, path),
                InstructionKind::Copy(copy) | InstructionKind::Add(crate::Add { copy, .. }) => {
                    copied.extend(with_parents(&absolute(&directory, &copy.dest)));
                }
                _ => {}
            }
            let Some(step) = run_step(instruction) else { continue };
            let again = step.commands.iter().find(|one| {
                matches!(one.program(), "chown" | "chmod" | "chgrp")
                    && (one.has_letter('R') || one.has("--recursive"))
                    && one.arguments().skip(1).any(|path| copied.contains(&absolute(&directory, path)))
            });
            if let Some(one) = again {
                let name = one.program();
                let flag = if name == "chmod" { "--chmod" } else { "--chown" };
                let message =
                    format!("`{name} -R` stores the copied files a second time: give COPY `{flag}` instead");
                found.add(message, instruction.span);
            }
        }
    }
}

fn copies_everything(copy: &Copy) -> bool {
    copy.from.is_none()
        && copy
            .sources
            .iter()
            .any(|source| matches!(source, CopySource::Path(path) if matches!(path.as_str(), "." | "./" | "/" | "*")))
}

/// The command, when it installs the dependencies that a file of the context lists.
fn installs(one: &Simple) -> Option<String> {
    let mut words = one.arguments();
    let (verb, next) = (words.next().unwrap_or_default(), words.next());
    let program = one.program();
    let found = match program {
        "npm" | "pnpm" => matches!(verb, "ci" | "install" | "i") && next.is_none(),
        // Without a verb it installs.
        "yarn" => matches!(verb, "install" | ""),
        "bun" | "composer" | "bundle" | "poetry" | "pipenv" => verb == "install" && next.is_none(),
        "uv" => verb == "sync",
        "go" => verb == "mod" && next == Some("download"),
        "cargo" => verb == "fetch",
        "mvn" => verb.starts_with("dependency:"),
        "dotnet" => verb == "restore",
        _ if program.starts_with("pip") => verb == "install" && (one.has("-r") || one.has("--requirement")),
        _ => false,
    };
    found.then(|| if verb.is_empty() { program.to_owned() } else { format!("{program} {verb}") })
}

/// What ADD unpacks, by its usual names.
fn is_archive(path: &str) -> bool {
    const ENDS: [&str; 10] =
        [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz", ".xz"];
    let path = path.to_lowercase();
    path.contains(['$', '*']) || ENDS.iter().any(|end| path.ends_with(end))
}

fn absolute(directory: &str, path: &str) -> String {
    let path = path.trim_end_matches('/').trim_start_matches("./");
    match path {
        "" if directory == "/" => "/".to_owned(),
        "" | "." => directory.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{}/{path}", directory.trim_end_matches('/')),
    }
}

/// `/a/b/c` as itself, `/a/b` and `/a`. What is too long or too deep for any image is left out.
fn with_parents(path: &str) -> Vec<String> {
    if path.len() > LONGEST_PATH {
        return Vec::new();
    }
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    ends.filter(|end| *end > 1)
        .filter_map(|end| path.get(..end))
        .take(DEEPEST_PATH)
        .map(str::to_owned)
        .collect()
}

/// PATH_MAX.
const LONGEST_PATH: usize = 4096;
const DEEPEST_PATH: usize = 32;
