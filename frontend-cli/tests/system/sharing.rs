//! Several kiln processes on one store.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use kiln_fixtures::Context;

use crate::kiln::{Ended, Kiln};

/// Each line of the log on the host is one run of a step.
fn counting_dockerfile() -> String {
    // The cache mount is the only thing that both builds write to.
    let step =
        |n: u32| format!("RUN --mount=type=cache,id=count,target=/count echo {n} >> /count/log && sleep 1\n");
    format!("FROM busybox\n{}{}{}", step(1), step(2), step(3))
}

#[test]
fn two_builds_of_one_dockerfile_run_each_step_once() {
    let Some(kiln) = Kiln::new("two builds") else { return };
    let context = Context::with_dockerfile(&counting_dockerfile());
    let line = ["build", "--progress=plain", "-t", "shared", "."];
    let spawn = || {
        let mut command = kiln.command(context.path(), &line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builds = [spawn(), spawn()];
    for build in builds {
        let ended = Ended::from(build.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    let show = Context::with_dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=count,target=/count cat /count/log > /log\n",
    );
    kiln.build(show.path(), &["-t", "show", "."]);
    assert_eq!(kiln.run(&["show", "cat", "/log"]), "1\n2\n3\n");
}

#[test]
fn equal_steps_of_two_stages_run_once_and_independent_ones_side_by_side() {
    let Some(kiln) = Kiln::new("equal steps") else { return };
    // Each of the two waits for a file that only the other makes: one after the other they would never end.
    let meet = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/m touch /m/{mine} && \
             for i in $(seq 6000); do [ -e /m/{other} ] && exit 0; sleep 0.1; done; exit 1\n"
        )
    };
    let text = format!(
        "FROM busybox AS a\n{}RUN date +%s%N > /a\nFROM busybox AS b\n{}RUN date +%s%N > /a\nFROM scratch\n\
         COPY --from=a /a /a\nCOPY --from=b /a /b\n",
        meet("a", "b"),
        meet("b", "a")
    );
    let ended = kiln.build(Context::with_dockerfile(&text).path(), &["-t", "meet", "."]);
    // Neither of the two that met left anything behind, so `date` starts from the same contents in both stages.
    assert_eq!(ended.steps(), (5, 1), "{}", ended.stderr);
    assert_eq!(kiln.ok(std::path::Path::new("/"), &["history", "-q", "meet"]).status, 0);
}

/// Starts a build of a step that says `begun` and ends once [`let_go`] was called.
fn start_waiting(kiln: &Kiln, context: &Context) -> Child {
    let mut command = kiln.command(context.path(), &["build", "--progress=plain", "-t", "waiting", "."]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn waiting_dockerfile() -> Context {
    Context::with_dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=go,target=/go echo run >> /go/runs; echo it has be\"\"gun; \
         for i in $(seq 12000); do [ -e /go/on ] && break; sleep 0.05; done; echo it is over > /done\n",
    )
}

fn let_go(kiln: &Kiln) {
    let context =
        Context::with_dockerfile("FROM busybox\nRUN --mount=type=cache,id=go,target=/go touch /go/on\n");
    kiln.build(context.path(), &["."]);
}

/// Reads until a line has `word`.
#[track_caller]
fn wait_for(build: &mut Child, word: &str) {
    // A byte at a time from the pipe itself: a dropped buffer would swallow what comes after the word.
    let stderr = build.stderr.as_mut().unwrap();
    let mut lines = BufReader::with_capacity(1, stderr).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)), "the build ended before `{word}`");
}

#[test]
fn a_follower_shows_the_log_of_the_step_that_it_waits_for() {
    let Some(kiln) = Kiln::new("followers") else { return };
    let context = waiting_dockerfile();
    let mut leader = start_waiting(&kiln, &context);
    wait_for(&mut leader, "it has begun");
    let mut follower = start_waiting(&kiln, &context);
    wait_for(&mut follower, "it has begun");
    let_go(&kiln);
    for build in [leader, follower] {
        assert_eq!(Ended::from(build.wait_with_output().unwrap()).status, 0);
    }
    assert_eq!(kiln.run(&["waiting", "cat", "/done"]), "it is over\n");
}

#[test]
fn a_canceled_follower_leaves_its_leader_alone_and_a_killed_leader_is_replaced() {
    let Some(kiln) = Kiln::new("canceled followers") else { return };
    let context = waiting_dockerfile();
    let mut leader = start_waiting(&kiln, &context);
    wait_for(&mut leader, "it has begun");
    let mut canceled = start_waiting(&kiln, &context);
    let mut heir = start_waiting(&kiln, &context);
    wait_for(&mut canceled, "it has begun");
    wait_for(&mut heir, "it has begun");
    let pid = canceled.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(canceled.wait().unwrap().code(), Some(130));
    assert!(leader.try_wait().unwrap().is_none(), "the leader goes on");
    leader.kill().unwrap();
    leader.wait().unwrap();
    // Now it runs the step itself.
    wait_for(&mut heir, "it has begun");
    let_go(&kiln);
    assert_eq!(Ended::from(heir.wait_with_output().unwrap()).status, 0);
    assert_eq!(kiln.run(&["waiting", "cat", "/done"]), "it is over\n");
    let left = std::fs::read_dir(kiln.root().join("locks")).unwrap();
    let logs =
        left.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "log"));
    assert_eq!(logs.count(), 0);
}

#[test]
fn a_locked_cache_mount_has_one_user_among_processes_and_a_private_one_each() {
    let Some(kiln) = Kiln::new("cache mounts of processes") else { return };
    let start = |sharing: &str, number: usize, step: &str| {
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} echo {number} > /me; {step}\n"
        );
        let context = Context::with_dockerfile(&text);
        let mut command = kiln.command(context.path(), &["build", "--progress=plain", "."]);
        (command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), context)
    };
    // Nobody else is in while one is: for a locked mount by waiting, for a private one by having another.
    let alone = "mkdir /c/inside && sleep 0.2 && rmdir /c/inside";
    for sharing in ["locked", "private"] {
        let builds: Vec<_> = (0..3).map(|number| start(sharing, number, alone)).collect();
        for (build, _context) in builds {
            let ended = Ended::from(build.wait_with_output().unwrap());
            assert_eq!(ended.status, 0, "{sharing}: {}", ended.stderr);
        }
    }
    // Shared ones meet: each waits for what the other makes.
    let meet = |mine: &str, other: &str| {
        format!(
            "touch /c/{mine}; for i in $(seq 6000); do [ -e /c/{other} ] && exit 0; sleep 0.1; done; exit 1"
        )
    };
    let builds = [start("shared", 0, &meet("a", "b")), start("shared", 1, &meet("b", "a"))];
    for (build, _context) in builds {
        let ended = Ended::from(build.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "shared: {}", ended.stderr);
    }
}
