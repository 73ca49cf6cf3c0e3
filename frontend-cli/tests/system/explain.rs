//! Why steps ran: the words for each kind of change; what a build would do; past builds and their logs.

use kiln_fixtures::Context;

use crate::kiln::Kiln;

/// A store and a context with a Dockerfile that is edited and built again.
struct Project {
    kiln: Kiln,
    context: Context,
}

impl Project {
    fn new(test: &str, dockerfile: &str) -> Option<Self> {
        Some(Self { kiln: Kiln::new(test)?, context: Context::with_dockerfile(dockerfile) })
    }

    #[track_caller]
    fn build(&self, words: &[&str]) {
        self.kiln.build(self.context.path(), &[words, &["."]].concat());
    }

    /// Builds, and returns why steps ran; digests, dates and ids are cut out.
    #[track_caller]
    fn why(&self, words: &[&str]) -> String {
        self.build(words);
        self.explain(&[])
    }

    #[track_caller]
    fn explain(&self, words: &[&str]) -> String {
        filtered(&self.kiln.ok(self.context.path(), &[&["explain"], words].concat()).stdout)
    }

    #[track_caller]
    fn edited(&self, dockerfile: &str) -> String {
        self.context.write("Dockerfile", dockerfile);
        self.why(&[])
    }
}

/// Without digests, ids of builds, dates and times.
fn filtered(text: &str) -> String {
    let text = kiln_fixtures::redact(text, &[]);
    let hex = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = |word: &str, like: &str| {
        word.len() == like.len()
            && word
                .bytes()
                .zip(like.bytes())
                .all(|(a, b)| if b == b'0' { a.is_ascii_digit() } else { a == b })
    };
    let shown = |word: &str| match word {
        _ if hex(word) => "ID".to_owned(),
        _ if digits(word, "0000-00-00") => "DATE".to_owned(),
        _ if digits(word, "00:00") => "TIME".to_owned(),
        _ => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(shown).collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[test]
fn changes_of_files_are_named_by_file() {
    let Some(project) = Project::new("changes of files", "FROM busybox\nCOPY . /src\n") else { return };
    project.context.write(".dockerignore", "Dockerfile\n.dockerignore\n");
    for name in ["src/a.c", "src/b.c", "src/c.c", "run.sh"] {
        project.context.write(name, name);
    }
    let path = |name: &str| project.context.join(name);
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: first build of this instruction
    0 of 1 steps were cached in build ID
    ");
    for name in ["src/a.c", "src/b.c", "src/c.c"] {
        project.context.write(name, "changed");
    }
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: src/a.c changed (+2 others)
    0 of 1 steps were cached in build ID
    ");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: mode of run.sh 644 → 755
    0 of 1 steps were cached in build ID
    ");
    project.context.write("new", "");
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: new added
    0 of 1 steps were cached in build ID
    ");
    std::fs::remove_file(path("new")).unwrap();
    std::fs::remove_file(path("run.sh")).unwrap();
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: run.sh removed
    0 of 1 steps were cached in build ID
    ");
    std::os::unix::fs::symlink("src", path("run.sh")).unwrap();
    std::fs::remove_file(path("src/a.c")).unwrap();
    std::fs::create_dir(path("src/a.c")).unwrap();
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: /src/run.sh added (+1 other)
    0 of 1 steps were cached in build ID
    ");
    std::fs::remove_file(path("run.sh")).unwrap();
    std::os::unix::fs::symlink("src/a.c", path("run.sh")).unwrap();
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] COPY . /src: /src/run.sh changed
    0 of 1 steps were cached in build ID
    ");
    // What was built once is found again, and then nothing is to be explained.
    insta::assert_snapshot!(project.why(&[]), @r"
    1 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.explain(&["COPY"]), @r"
    `COPY` did not run in build ID
    ");
}

#[test]
fn changes_of_what_a_command_is_given_are_named_with_both_values() {
    let text = |lines: &str| format!("FROM busybox\nARG VERSION=1.2\n{lines}RUN echo $VERSION\n");
    let Some(project) = Project::new("changes of values", &text("")) else { return };
    project.build(&[]);
    insta::assert_snapshot!(project.why(&["--build-arg", "VERSION=1.3"]), @r"
    [2/2] RUN echo 1.3: build arg VERSION 1.2 → 1.3
    0 of 1 steps were cached in build ID
    ");
    project.build(&[]);
    insta::assert_snapshot!(project.edited(&text("ENV LANG=C\n")), @r"
    [2/2] RUN echo 1.2: env LANG added: C
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&text("ENV LANG=C.UTF-8\n")), @r"
    [2/2] RUN echo 1.2: env LANG C → C.UTF-8
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&text("ENV LANG=C.UTF-8\nUSER 1000\n")), @r"
    [2/2] RUN echo 1.2: user added: 1000
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&text("ENV LANG=C.UTF-8\nWORKDIR /tmp\n")), @r"
    [2/3] WORKDIR /tmp: first build of this instruction
    [3/3] RUN echo 1.2: working directory / → /tmp
        also: a step above is new: [2/3] WORKDIR /tmp
    0 of 2 steps were cached in build ID
    ");
    let run = |options: &str, command: &str| format!("FROM busybox\nRUN {options} {command}\n");
    project.build(&[]);
    project.context.write("Dockerfile", run("", "true"));
    project.build(&[]);
    insta::assert_snapshot!(project.edited(&run("", "echo more")), @r"
    [2/2] RUN  echo more: instruction changed: `/bin/sh -c true` → `/bin/sh -c echo more`
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&run("--network=none", "echo more")), @r"
    [2/2] RUN --network=none echo more: network added: none
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&run("--mount=type=secret,id=token", "echo more")), @r"
    [2/2] RUN --mount=type=secret,id=token echo more: mount /run/secrets/token added: type=secret,id=token
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&run("--mount=type=secret,id=key,target=/run/secrets/token", "echo more")), @r"
    [2/2] RUN --mount=type=secret,id=key,target=/run/secrets/token echo more: mount /run/secrets/token type=secret,id=token → type=secret,id=key
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&run("--mount=type=bind,target=/in", "echo more")), @r"
    [2/2] RUN --mount=type=bind,target=/in echo more: mount /in added: type=bind,source=/
        also: /in/ added (+1 other)
    0 of 1 steps were cached in build ID
    ");
    project.context.write("seen", "1");
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] RUN --mount=type=bind,target=/in echo more: seen added
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.why(&["--platform", "linux/amd64/v2"]), @r"
    [2/2] RUN --mount=type=bind,target=/in echo more: platform linux/amd64 → linux/amd64/v2
    0 of 1 steps were cached in build ID
    ");
}

#[test]
fn changes_above_name_the_step_or_the_base() {
    let Some(project) = Project::new("changes above", "FROM busybox\nRUN echo one > /etc/one\n") else {
        return;
    };
    project.build(&["-t", "base"]);
    let text = "FROM base\nRUN ls /etc > /two\nRUN cat /two > /three\n";
    insta::assert_snapshot!(project.edited(text), @r"
    [2/3] RUN ls /etc > /two: instruction changed: `/bin/sh -c echo one > /etc/one` → `/bin/sh -c ls /etc > /two`
        also: base image docker.io/library/busybox:latest → docker.io/library/base:latest
    [3/3] RUN cat /two > /three: first build of this instruction
    0 of 2 steps were cached in build ID
    ");
    project.context.write("base.Dockerfile", "FROM busybox\nRUN echo two > /etc/one\n");
    project.build(&["-t", "base", "-f", "base.Dockerfile"]);
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/3] RUN ls /etc > /two: base image docker.io/library/base:latest moved from sha256:[digest] to sha256:[digest]
    [3/3] RUN cat /two > /three: base image docker.io/library/base:latest moved from sha256:[digest] to sha256:[digest]
    0 of 2 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&text.replace("FROM base", "FROM debian:bookworm-slim")), @r"
    [2/3] RUN ls /etc > /two: base image docker.io/library/base:latest → docker.io/library/debian:bookworm-slim
    [3/3] RUN cat /two > /three: base image docker.io/library/base:latest → docker.io/library/debian:bookworm-slim
    0 of 2 steps were cached in build ID
    ");
    project.context.write("Dockerfile", text);
    project.build(&[]);
    let inserted = text.replace("RUN cat /two", "RUN echo new > /new\nRUN cat /two");
    insta::assert_snapshot!(project.edited(&inserted), @r"
    [3/4] RUN echo new > /new: first build of this instruction
    [4/4] RUN cat /two > /three: a step above is new: [3/4] RUN echo new > /new
    1 of 3 steps were cached in build ID
    ");
    let edited = inserted.replace("echo new > /new", "echo other > /new");
    insta::assert_snapshot!(project.edited(&edited), @r"
    [3/4] RUN echo other > /new: instruction changed: `/bin/sh -c echo new > /new` → `/bin/sh -c echo other > /new`
    [4/4] RUN cat /two > /three: a step above gave something else: [3/4] RUN echo other > /new
    1 of 3 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&edited.replace("RUN ls /etc > /two\n", "RUN touch /two\n")), @r"
    [2/4] RUN touch /two: instruction changed: `/bin/sh -c ls /etc > /two` → `/bin/sh -c touch /two`
    [3/4] RUN echo other > /new: a step above gave something else: [2/4] RUN touch /two
    [4/4] RUN cat /two > /three: a step above gave something else: [2/4] RUN touch /two
    0 of 3 steps were cached in build ID
    ");
}

#[test]
fn a_result_that_was_not_to_be_used_or_is_gone_says_so() {
    let text = "FROM busybox AS one\nRUN echo a > /a\n";
    let Some(project) = Project::new("unused results", text) else { return };
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] RUN echo a > /a: first build of this instruction
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.why(&["--no-cache"]), @r"
    [2/2] RUN echo a > /a: --no-cache
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.why(&["--no-cache-filter", "ONE,unknown"]), @r"
    [2/2] RUN echo a > /a: --no-cache-filter
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.why(&["--cache-ttl", "0"]), @r"
    [2/2] RUN echo a > /a: a lifetime of 0 takes no earlier result
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.why(&["--cache-ttl", "1h30m"]), @r"
    1 of 1 steps were cached in build ID
    ");
    let with_comment = "FROM busybox AS one\n# kiln: no-cache\nRUN echo a > /a\n";
    insta::assert_snapshot!(project.edited(with_comment), @r"
    [2/2] RUN echo a > /a: # kiln: no-cache
    0 of 1 steps were cached in build ID
    ");
    insta::assert_snapshot!(project.edited(&with_comment.replace("no-cache", "cache-ttl=0")), @r"
    [2/2] RUN echo a > /a: a lifetime of 0 takes no earlier result
    0 of 1 steps were cached in build ID
    ");
    // The files of a result are lost.
    project.context.write("Dockerfile", text);
    for layer in std::fs::read_dir(project.kiln.root().join("layers")).unwrap() {
        let path = layer.unwrap().path();
        if path.join("a").exists() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] RUN echo a > /a: removed by a repair, since its files were lost or damaged, on DATE TIME UTC
    0 of 1 steps were cached in build ID
    ");
    project.kiln.ok(project.context.path(), &["prune", "--all", "--force"]);
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] RUN echo a > /a: removed by prune on DATE TIME UTC
    0 of 1 steps were cached in build ID
    ");
    // A failure is no result.
    project
        .context
        .write("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s test -e /run/secrets/s\n");
    let line = ["build", "--progress=plain", "--explain", "."];
    let failed = project.kiln.call(project.context.path(), &line);
    assert_eq!(failed.status, 1);
    project.context.write("s", "");
    insta::assert_snapshot!(project.why(&["--secret", "id=s,src=s"]), @r"
    [2/2] RUN --mount=type=secret,id=s test -e /run/secrets/s: failed the last time; a failure is never taken from the cache
    0 of 1 steps were cached in build ID
    ");
    let comment = "FROM busybox\n# kiln: no-chache\nRUN true\n";
    project.context.write("Dockerfile", comment);
    let refused = project.kiln.call(project.context.path(), &line);
    assert_eq!(refused.status, 1);
    insta::assert_snapshot!(refused.stderr.split_once("error: ").unwrap().1, @r"
    `# kiln: no-chache`: neither no-cache nor cache-ttl=DURATION
     --> Dockerfile:3:1
    3 | RUN true
      | ^^^^^^^^
    hint: write `# kiln: no-cache`, or `# kiln: cache-ttl=24h` above RUN
    ");
}

#[test]
fn a_result_that_is_too_old_or_was_collected_says_so() {
    let text = "FROM busybox\nRUN head -c 3000000 /dev/urandom > /a\n";
    let Some(project) = Project::new("old results", text) else { return };
    project.build(&[]);
    // It takes a second to be older than one.
    let old = loop {
        let why = project.why(&["--cache-ttl", "1s"]);
        if !why.starts_with("1 of 1") {
            break why;
        }
    };
    insta::assert_snapshot!(old, @r"
    [2/2] RUN head -c 3000000 /dev/urandom > /a: the earlier result was older than 1s
    0 of 1 steps were cached in build ID
    ");
    let config = tempfile::tempdir().unwrap();
    std::fs::create_dir(config.path().join("kiln")).unwrap();
    let limits = "[gc]\nreservedSpace = 0\nmaxUsedSpace = \"1MB\"\nminFreeSpace = 0\n";
    std::fs::write(config.path().join("kiln/config.toml"), limits).unwrap();
    let other = Context::with_dockerfile("FROM busybox\nRUN echo other\n");
    let mut build = project.kiln.command(other.path(), &["build", "."]);
    assert!(build.env("XDG_CONFIG_HOME", config.path()).output().unwrap().status.success());
    insta::assert_snapshot!(project.why(&[]), @r"
    [2/2] RUN head -c 3000000 /dev/urandom > /a: removed by garbage collection on DATE TIME UTC
    0 of 1 steps were cached in build ID
    ");
}

#[test]
fn a_dry_run_says_what_would_run_and_does_nothing() {
    let text = "FROM debian:bookworm-slim AS base\nFROM busybox\nRUN sleep 0.3\nCOPY a /a\nRUN cat /a\nWORKDIR /w\n\
                COPY --from=base /etc/hostname /h\n";
    let Some(project) = Project::new("dry run", text) else { return };
    project.context.write("a", "1");
    let dry = |words: &[&str]| {
        let line = [&["build", "--dry-run"], words, &["."]].concat();
        let report = project.kiln.ok(project.context.path(), &line).stdout;
        // Times and sizes differ from run to run.
        let number = |word: &str| {
            word.strip_suffix("MB")
                .or_else(|| word.strip_suffix('s'))
                .is_some_and(|n| n.parse::<f64>().is_ok())
        };
        let report = filtered(&report);
        let words = report.lines().map(|line| {
            line.split_whitespace()
                .map(|word| if number(word) { "N" } else { word })
                .collect::<Vec<_>>()
                .join(" ")
        });
        words.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(dry(&[]), @r"
    EXPECTED TIME STEP
    pull N [stage-1 1/6] FROM docker.io/library/busybox:latest@sha256:[digest]
    run ? [stage-1 2/6] RUN sleep 0.3: first build of this instruction
    run ? [stage-1 3/6] COPY a /a: a step above runs: [stage-1 2/6] RUN sleep 0.3
    run ? [stage-1 4/6] RUN cat /a: a step above runs: [stage-1 3/6] COPY a /a
    run ? [stage-1 5/6] WORKDIR /w: a step above runs: [stage-1 4/6] RUN cat /a
    pull N [base 1/1] FROM docker.io/library/debian:bookworm-slim@sha256:[digest]
    run ? [stage-1 6/6] COPY --from=base /etc/hostname /h: a step above runs: [stage-1 5/6] WORKDIR /w
    0 cached, 5 to run, 2 to pull; expected time: at least N
    ");
    let store = kiln_cache::Store::open(&project.kiln.root()).unwrap();
    assert!(store.images().unwrap().is_empty() && store.builds().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    drop(store);
    project.build(&[]);
    insta::assert_snapshot!(dry(&[]), @r"
    EXPECTED TIME STEP
    cached [stage-1 1/6] FROM docker.io/library/busybox:latest@sha256:[digest]
    cached [stage-1 2/6] RUN sleep 0.3
    cached [stage-1 3/6] COPY a /a
    cached [stage-1 4/6] RUN cat /a
    cached [stage-1 5/6] WORKDIR /w
    cached [base 1/1] FROM docker.io/library/debian:bookworm-slim@sha256:[digest]
    cached [stage-1 6/6] COPY --from=base /etc/hostname /h
    7 cached, 0 to run, 0 to pull; expected time: N
    ");
    project.context.write("a", "2");
    insta::assert_snapshot!(dry(&[]), @r"
    EXPECTED TIME STEP
    cached [stage-1 1/6] FROM docker.io/library/busybox:latest@sha256:[digest]
    cached [stage-1 2/6] RUN sleep 0.3
    run N [stage-1 3/6] COPY a /a: a changed
    run N [stage-1 4/6] RUN cat /a: a step above runs: [stage-1 3/6] COPY a /a
    cached [stage-1 5/6] WORKDIR /w
    cached [base 1/1] FROM docker.io/library/debian:bookworm-slim@sha256:[digest]
    cached [stage-1 6/6] COPY --from=base /etc/hostname /h
    5 cached, 2 to run, 0 to pull; expected time: N
    ");
    insta::assert_snapshot!(dry(&["--no-cache"]), @r"
    EXPECTED TIME STEP
    cached [stage-1 1/6] FROM docker.io/library/busybox:latest@sha256:[digest]
    run N [stage-1 2/6] RUN sleep 0.3: --no-cache
    run N [stage-1 3/6] COPY a /a: --no-cache
    run N [stage-1 4/6] RUN cat /a: --no-cache
    cached [stage-1 5/6] WORKDIR /w
    cached [base 1/1] FROM docker.io/library/debian:bookworm-slim@sha256:[digest]
    run N [stage-1 6/6] COPY --from=base /etc/hostname /h: --no-cache
    3 cached, 4 to run, 0 to pull; expected time: N
    ");
    // It was said what would be done, and nothing was.
    let ended = project.kiln.build(project.context.path(), &["."]);
    assert_eq!(ended.steps(), (2, 3), "{}", ended.stderr);
    let json = project.kiln.ok(project.context.path(), &["build", "--dry-run", "--format=json", "."]).stdout;
    assert!(json.contains("\"expectedSeconds\": 0.0") && json.contains("\"expected\": \"cached\""), "{json}");
}

#[test]
fn past_builds_are_listed_and_their_logs_shown() {
    let text = "FROM busybox AS one\nRUN echo printed\nRUN echo failing; exit 7\n";
    let Some(project) = Project::new("past builds", text) else { return };
    let here = project.context.path();
    assert_eq!(project.kiln.call(here, &["build", "."]).status, 1);
    project.context.write("Dockerfile", text.replace("exit 7", "exit 0"));
    project.build(&["-t", "named", "--target", "one"]);
    let list = project.kiln.ok(here, &["builds"]).stdout;
    let cells = |line: &str| {
        line.split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rows: Vec<_> = list.lines().skip(1).map(cells).collect();
    assert_eq!(
        (rows[0][1].as_str(), rows[0][2].as_str(), rows[0][5].as_str()),
        ("named (one)", "completed", "1/2 (50%)")
    );
    assert_eq!((rows[1][2].as_str(), rows[1][5].as_str()), ("failed (7)", "0/2 (0%)"));
    // The first step was cached in the second build; it says what it printed when it ran.
    assert_eq!(project.kiln.ok(here, &["logs", "echo printed"]).stdout, "printed\n");
    insta::assert_snapshot!(project.kiln.ok(here, &["logs", "^0"]).stdout, @r"
    #4 [2/3] RUN echo printed
    printed
    #5 [3/3] RUN echo failing; exit 0
    failing
    ");
    let of_failed = project.kiln.ok(here, &["logs", &rows[1][0]]);
    insta::assert_snapshot!(of_failed.stdout, @r"
    #4 [2/3] RUN echo printed
    printed
    #5 [3/3] RUN echo failing; exit 7
    failing
    ");
    assert_eq!(of_failed.stderr, "exit code: 7\n");
    let json: serde_json::Value =
        serde_json::from_str(&project.kiln.ok(here, &["builds", "inspect", "^1", "--format=json"]).stdout)
            .unwrap();
    assert_eq!(json["result"], "failed");
    assert_eq!(
        json["steps"].as_array().unwrap().iter().filter(|step| step["outcome"]["failed"] == 7).count(),
        1
    );
    assert_eq!(json["exitCode"], 7);
    let codes: Vec<_> = json["steps"].as_array().unwrap().iter().map(|step| &step["exitCode"]).collect();
    assert!(codes.contains(&&serde_json::json!(0)) && codes.contains(&&serde_json::json!(7)), "{codes:?}");
    let cost = json["steps"].as_array().unwrap().iter().find(|step| step["outcome"] == "ran").unwrap();
    assert!(cost["peakMemoryBytes"].as_u64().unwrap() > 0, "{cost}");
    project.kiln.ok(here, &["builds", "inspect"]).says("named");
    project.kiln.ok(here, &["builds", "rm", "^1"]);
    assert_eq!(project.kiln.ok(here, &["builds", "-q"]).stdout, format!("{}\n", rows[0][0]));
    project.kiln.ok(here, &["builds", "rm", "--all"]);
    assert_eq!(project.kiln.ok(here, &["builds", "--format=json"]).stdout, "[]\n");
    let none = project.kiln.call(here, &["explain"]);
    insta::assert_snapshot!(none.stderr, @r"
    error: no build is remembered
    hint: `kiln build` remembers each
    ");
}
