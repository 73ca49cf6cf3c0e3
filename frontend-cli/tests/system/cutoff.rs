//! What runs again after a change, and what does not: keys are made of what a step looks at.

use std::os::unix::fs::symlink;

use kiln_fixtures::{Context, DockerRegistry};

use crate::kiln::Kiln;

/// A store, and a context whose Dockerfile is edited and built again.
struct Project {
    kiln: Kiln,
    context: Context,
}

impl Project {
    fn new(test: &str) -> Option<Self> {
        Some(Self { kiln: Kiln::new(test)?, context: Context::with_dockerfile("") })
    }

    /// How many steps ran, and how many were found.
    #[track_caller]
    fn build(&self, dockerfile: &str, words: &[&str]) -> (usize, usize) {
        self.context.write("Dockerfile", dockerfile);
        self.kiln.build(self.context.path(), &[words, &["-t", "built", "."]].concat()).steps()
    }

    #[track_caller]
    fn shown(&self, command: &str) -> String {
        self.kiln.run(&["built", "sh", "-c", command])
    }
}

#[test]
fn a_step_that_makes_the_same_contents_again_stops_the_rebuild_below_it() {
    let Some(project) = Project::new("same contents") else { return };
    let text = |version: &str| {
        format!(
            "FROM busybox\nRUN : {version}; head -c 2 /bin/busybox > /same\nRUN sha256sum /same > /sum\nCOPY a /a\nRUN cat /a /sum > /end\n"
        )
    };
    project.context.write("a", "a");
    assert_eq!(project.build(&text("1"), &[]), (4, 0));
    // The time of /same is another, and counts for nothing.
    assert_eq!(project.build(&text("2"), &[]), (1, 3));
    assert_eq!(project.build(&text("2").replace("-c 2", "-c 3"), &[]), (3, 1));
}

#[test]
fn copies_do_not_care_what_else_changed_above_them() {
    let Some(project) = Project::new("copies below changes") else { return };
    let text = "FROM busybox\nRUN echo one > /installed\nCOPY a /app/\nADD b /app/lib/\nCOPY --chown=1:1 a /owned/\nWORKDIR /work/here\n";
    project.context.write("a", "a");
    project.context.write("b", "b");
    assert_eq!(project.build(text, &[]), (5, 0));
    assert_eq!(project.build(&text.replace("one", "two"), &[]), (1, 4), "a change above");
    assert_eq!(project.build(&text.replace("busybox", "debian"), &[]), (1, 4), "a new base");
    let branch = Context::with_dockerfile(&text.replace("one", "three")).file("a", "a").file("b", "b");
    assert_eq!(project.kiln.build(branch.path(), &["."]).steps(), (1, 4), "another folder, the same files");

    // What they do look at counts: a directory on the way has another mode, a link leads elsewhere.
    let private = text.replace("echo one", "mkdir -m 700 /app; echo one");
    assert_eq!(project.build(&private, &[]), (3, 2));
    assert_eq!(project.shown("stat -c %a /app && cat /app/a /app/lib/b"), "700\nab");
    let linked = text.replace("echo one", "mkdir /else && ln -s /else /app; echo one");
    assert_eq!(project.build(&linked, &[]), (3, 2));
    assert_eq!(project.shown("cat /else/a /else/lib/b && pwd"), "ab/work/here\n");
}

#[test]
fn a_mounted_part_of_a_stage_is_known_by_what_is_in_it() {
    let Some(project) = Project::new("mounted parts") else { return };
    let text = "FROM busybox AS make\nCOPY in /in\nRUN mkdir /part && head -c 1 /in > /part/out && ln -s /part /link\n\
                FROM busybox\nRUN --mount=type=bind,from=make,source=/part,target=/m cat /m/out > /end\n\
                RUN --mount=type=bind,from=make,source=/part/out,target=/f cat /f > /file\n";
    project.context.write("in", "x1");
    assert_eq!(project.build(text, &[]), (4, 0));
    assert_eq!(project.build(text, &[]), (0, 4));
    project.context.write("in", "x2");
    assert_eq!(project.build(text, &[]), (2, 2), "the stage changed, its part did not");
    assert_eq!(
        project.build(&text.replacen("busybox", "debian", 1), &[]),
        (1, 3),
        "another base, the same part"
    );
    assert_eq!(
        project.build(&text.replace("source=/part,", "source=/link,"), &[]),
        (1, 3),
        "a path of its own, whatever it leads to; it gives the same"
    );
    project.context.write("in", "y2");
    assert_eq!(project.build(text, &[]), (4, 0));
    assert_eq!(project.shown("cat /end /file"), "yy");
    insta::assert_snapshot!(project.kiln.ok(project.context.path(), &["explain", "cat /f"]).stdout, @r"
    [stage-1 3/3] RUN --mount=type=bind,from=make,source=/part/out,target=/f cat /f > /file: part/out changed
        also: a step above gave something else: [stage-1 2/3] RUN --mount=type=bind,from=make,source=/part,target=/m cat /m/out > /end
    ");
    let with_mode = text.replace("ln -s", "chmod 600 /part/out && ln -s");
    assert_eq!(project.build(&with_mode, &[]), (3, 1), "modes count");
    let more = text.replace("ln -s", "echo more > /part/more && ln -s");
    // The file of the last step is as it was, and so is what the step before it gives.
    assert_eq!(project.build(&more, &[]), (2, 2), "names count");
}

#[test]
fn it_counts_which_files_are_one_file() {
    let Some(project) = Project::new("hard links") else { return };
    let text = "FROM busybox AS make\nRUN mkdir /p && echo x > /p/a && cp /p/a /p/b\n\
                FROM busybox AS mounts\nRUN --mount=type=bind,from=make,source=/p,target=/p stat -c %h /p/a > /links\n\
                FROM busybox AS copies\nCOPY --from=make /p /copied\nRUN stat -c %h /copied/a > /links\n";
    let build = |text: &str, target: &str| {
        let steps = project.build(text, &["--target", target]);
        (steps, project.shown("cat /links"))
    };
    let linked = text.replace("cp /p/a", "ln /p/a");
    assert_eq!(build(text, "mounts"), ((2, 0), "1\n".into()));
    assert_eq!(build(&linked, "mounts"), ((2, 0), "2\n".into()), "of what is mounted");
    assert_eq!(build(text, "copies"), ((2, 1), "1\n".into()));
    assert_eq!(build(&linked, "copies"), ((2, 1), "2\n".into()), "of what was copied");
}

#[test]
fn an_archive_is_extracted_again_only_where_that_gives_something_else() {
    let Some(project) = Project::new("archives") else { return };
    let text = "FROM busybox\nRUN echo one > /installed\nADD a.tar /app/\n";
    for name in ["lib/a", "lib/b"] {
        project.context.write(name, name);
    }
    let tar = |owner: &str| {
        let mut tar = std::process::Command::new("tar");
        tar.args(["-cf", "a.tar", "--mtime=@0", owner, "lib"]).current_dir(project.context.path());
        assert!(tar.status().unwrap().success());
    };
    tar("--owner=0");
    assert_eq!(project.build(text, &[]), (2, 0));
    assert_eq!(project.build(text, &[]), (0, 2));
    assert_eq!(project.build(&text.replace("one", "two"), &[]), (1, 1), "a change above");
    assert_eq!(project.build(&text.replace("busybox", "debian"), &[]), (1, 1), "a new base");
    assert_eq!(project.shown("cat /app/lib/a /app/lib/b"), "lib/alib/b");
    let private = text.replace("echo one", "mkdir -m 700 /app; echo one");
    assert_eq!(project.build(&private, &[]), (2, 0), "a directory on the way has another mode");
    assert_eq!(project.shown("stat -c %a /app && cat /app/lib/a"), "700\nlib/a");
    tar("--owner=1000");
    assert_eq!(project.build(text, &[]), (1, 1), "another owner");
    assert_eq!(project.shown("stat -c %u /app/lib/a"), "1000\n");
}

#[test]
fn a_mounted_path_that_is_not_there_is_an_error_each_time() {
    let Some(project) = Project::new("nothing mounted") else { return };
    let text = "FROM busybox AS make\nRUN true\nFROM busybox\nRUN --mount=type=bind,from=make,source=/none,target=/m true\n";
    project.context.write("Dockerfile", text);
    for _ in 0..2 {
        let ended = project.kiln.call(project.context.path(), &["build", "--progress=plain", "."]);
        assert_eq!(ended.status, 1);
        ended.says("/none");
    }
    let there = text.replace("RUN true", "RUN mkdir /none");
    assert_eq!(project.build(&there, &[]), (2, 0));
}

#[test]
fn a_build_without_cache_runs_everything_and_is_remembered() {
    let Some(project) = Project::new("without cache") else { return };
    let text = "FROM busybox AS one\nRUN --mount=type=cache,target=/c echo >> /c/n; wc -l < /c/n > /one\n\
                FROM busybox\nCOPY --from=one /one /one\nRUN --mount=type=cache,target=/d echo >> /d/n; wc -l < /d/n > /two\n";
    assert_eq!(project.build(text, &[]), (3, 0));
    // Cache mounts are kept, which shows how often a step ran.
    assert_eq!(project.build(text, &["--no-cache"]), (3, 0));
    assert_eq!(project.shown("cat /one /two"), "2\n2\n");
    assert_eq!(project.build(text, &[]), (0, 3));
    assert_eq!(project.shown("cat /one /two"), "2\n2\n", "what --no-cache made is found from then on");
    assert_eq!(project.build(text, &["--no-cache-filter", "ONE,unknown"]), (3, 0), "and what copies from it");
    assert_eq!(project.shown("cat /one"), "3\n");
    assert_eq!(project.build(text, &["--no-cache-filter=other"]), (0, 3));
}

#[test]
fn a_failure_is_never_taken_from_the_cache() {
    let Some(project) = Project::new("failures") else { return };
    let count = "--mount=type=cache,id=runs,target=/c";
    let text = format!("FROM busybox\nRUN {count} echo >> /c/n; [ $(wc -l < /c/n) -gt 2 ]\nCOPY a /a\n");
    project.context.write("a", "a");
    project.context.write("Dockerfile", &text);
    for _ in 0..2 {
        let ended = project.kiln.call(project.context.path(), &["build", "--progress=plain", "."]);
        assert_eq!(ended.status, 1, "{}", ended.stderr);
    }
    assert_eq!(project.build(&text, &[]), (2, 0));
    assert_eq!(project.build(&text, &[]), (0, 2));
}

#[test]
fn pull_asks_the_registry_for_a_base_that_is_known() {
    let Some(project) = Project::new("pull") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let base = format!("{}/base:1", registry.host);
    let publish = |word: &str| {
        let context = Context::with_dockerfile("FROM busybox\nCOPY word /word\n").file("word", word);
        let other = Kiln::new("pull").unwrap();
        other.build(context.path(), &["--push", "-t", &base, "."]);
    };
    let text = format!("FROM {base}\nRUN cat /word > /read\nCOPY a /a\n");
    project.context.write("a", "a");
    publish("old\n");
    project.kiln.ok(project.context.path(), &["pull", &base]);
    assert_eq!(project.build(&text, &[]), (2, 0));
    publish("new\n");
    assert_eq!(project.build(&text, &[]), (0, 2));
    assert_eq!(project.build(&text, &["--pull"]), (1, 1));
    assert_eq!(project.shown("cat /read"), "new\n");
    assert_eq!(project.build(&text, &["--pull"]), (0, 2), "a base that is the same is no change");
}

#[test]
fn a_link_in_a_context_is_a_link_whatever_it_leads_to() {
    let Some(project) = Project::new("links") else { return };
    project.context.write("a", "a");
    symlink("a", project.context.join("link")).unwrap();
    let text = "FROM busybox\nCOPY --exclude=Dockerfile --exclude=a . /d/\n";
    assert_eq!(project.build(text, &[]), (1, 0));
    project.context.write("a", "b");
    assert_eq!(project.build(text, &[]), (0, 1));
}
