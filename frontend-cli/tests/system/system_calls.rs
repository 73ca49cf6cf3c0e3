//! How often a build asks the kernel. `benches/system_calls.py` has the figures of a release build, by cause.

use std::path::Path;
use std::process::{Command, Stdio};

use kiln_fixtures::Context;

use crate::kiln::Kiln;

/// A cached build of ten steps: some 390 in a static release build, and here the loader's, up to 23 for pages of the
/// database's log, and some for other versions of the C library.
const MOST_OF_CACHED: usize = 490;
/// Files younger than two seconds are hashed again, and a long log is folded in: neither is there for ever.
const MOST_ATTEMPTS: usize = 60;

/// The calls of one build; `None`, and a printed reason, where nothing can be traced.
fn traced(kiln: &Kiln, context: &Path) -> Option<usize> {
    let trace = kiln.root().with_file_name("trace");
    let build = kiln.command(context, &["build", "--progress=plain", "-t", "counted", "."]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(&trace).arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    // Cargo's, in which the loader would look for everything.
    strace.env_remove("LD_LIBRARY_PATH");
    let ended = strace.current_dir(context).stdin(Stdio::null()).output();
    match ended {
        Ok(ended) if ended.status.success() => {}
        ended => {
            eprintln!("skipped: strace cannot trace here: {ended:?}");
            return None;
        }
    }
    let text = std::fs::read(&trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    // A call that another thread's interrupts has two lines. Rust's library asks for a flag at each close in debug builds.
    let is_call = |line: &&str| {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        !call.starts_with(['<', '+', '-']) && !call.contains("F_GETFD")
    };
    Some(text.lines().filter(is_call).count())
}

/// The fewest of several builds, once they are no more than `most`.
fn fewest(kiln: &Kiln, context: &Path, most: usize) -> Option<usize> {
    kiln.build(context, &["-t", "counted", "."]);
    let mut fewest = usize::MAX;
    for _ in 0..MOST_ATTEMPTS {
        fewest = fewest.min(traced(kiln, context)?);
        if fewest <= most {
            break;
        }
    }
    Some(fewest)
}

fn new(test: &str) -> Option<Kiln> {
    if !kiln_fixtures::is_root() {
        eprintln!("{test}: skipped: an ordinary user's namespace cannot be made under strace");
        return None;
    }
    Kiln::new(test)
}

#[test]
fn a_cached_build_of_ten_steps_makes_few_system_calls() {
    let Some(kiln) = new("system calls of a cached build") else { return };
    let context = Context::with_dockerfile(
        "FROM busybox\nARG VERSION=0\nENV APP=/app\nENV APP_VERSION=$VERSION\nWORKDIR /app\nCOPY a b ./\nCOPY lib ./lib\n\
         RUN echo 1 > 1\nRUN cat lib/m > 2\nRUN chmod 600 2\nCMD [\"cat\", \"/app/2\"]\n",
    )
    .file("a", "a")
    .file("b", "b")
    .file("lib/m", "m")
    .file("lib/n", "n");
    let Some(calls) = fewest(&kiln, context.path(), MOST_OF_CACHED) else { return };
    assert!(calls <= MOST_OF_CACHED, "{calls} system calls");
}

#[test]
fn a_cached_copy_asks_once_for_each_file() {
    const MORE_FILES: usize = 1000;
    let Some(kiln) = new("system calls of a cached COPY") else { return };
    let with_files = |count: usize| {
        let context = Context::with_dockerfile("FROM busybox\nCOPY files /files\n");
        (0..count).fold(context, |context, number| context.file(&format!("files/{number}"), "x"))
    };
    let (few, many) = (with_files(1), with_files(1 + MORE_FILES));
    let Some(of_few) = fewest(&kiln, few.path(), MOST_OF_CACHED) else { return };
    // A twentieth for a longer list of names and memory for them.
    let most = of_few + MORE_FILES + MORE_FILES / 20;
    let Some(of_many) = fewest(&kiln, many.path(), most) else { return };
    assert!(of_many <= most, "{} system calls for {MORE_FILES} files", of_many - of_few);
}
