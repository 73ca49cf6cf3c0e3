//! Several kiln processes on one store.

use std::process::Stdio;

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
             for i in $(seq 300); do [ -e /m/{other} ] && exit 0; sleep 0.1; done; exit 1\n"
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
