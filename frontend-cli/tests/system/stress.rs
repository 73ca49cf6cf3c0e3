//! Many processes on one store, with pruning beside them and kills at random.
//!
//! `KILN_STRESS_SECONDS` says for how long.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_fixtures::Context;

use crate::kiln::{Ended, Kiln};
use crate::random::{Random, from_env};

const SECONDS: u64 = 8;
const BUILDERS: u64 = 8;
/// Dockerfiles that share their first steps.
const KINDS: usize = 4;

fn dockerfile(kind: usize) -> String {
    format!(
        "FROM busybox AS shared\nARG ROUND\nCOPY data /data\nRUN sha256sum /data/* > /sums && echo $ROUND > /shared\n\
         FROM busybox AS own\nARG ROUND\nRUN --mount=type=cache,target=/c,sharing=locked \
         date +%N > /c/last && echo {kind} $ROUND > /own\n\
         FROM shared\nCOPY --from=own /own /own\nRUN cat /own /shared > /both\n"
    )
}

#[test]
fn builds_with_prune_and_kills_beside_them_never_fail_by_themselves() {
    let Some(kiln) = Kiln::new("stress") else { return };
    let contexts: Vec<Context> = (0..KINDS)
        .map(|kind| {
            let context = Context::with_dockerfile(&dockerfile(kind));
            for file in 0..20_u8 {
                context.write(&format!("data/{file}"), vec![file; 10_000]);
            }
            context
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(from_env("KILN_STRESS_SECONDS", SECONDS));
    let (built, killed, pruned) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let goes_on = || Instant::now() < until && !failed.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for builder in 0..BUILDERS {
            let (kiln, contexts, built, killed, failed) = (&kiln, &contexts, &built, &killed, &failed);
            scope.spawn(move || {
                let mut random = Random::new(builder);
                while goes_on() {
                    let kind = random.below(KINDS);
                    // The rounds of the builders overlap.
                    let round = format!("ROUND={}", built.load(Ordering::Relaxed) / 12);
                    let line = ["build", "--progress=plain", "-t", "stress", "--build-arg", &round, "."];
                    let mut command = kiln.command(contexts[kind].path(), &line);
                    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                    if random.chance(15) {
                        // The moment of the kill is what is being varied.
                        std::thread::sleep(Duration::from_millis(random.below(120) as u64));
                        child.kill().unwrap();
                        killed.fetch_add(1, Ordering::Relaxed);
                        child.wait().unwrap();
                        continue;
                    }
                    let ended = ended(child);
                    if ended.status != 0 {
                        failed.store(true, Ordering::Relaxed);
                        panic!("builder {builder}: {}", ended.stderr);
                    }
                    built.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random::new(99);
        while goes_on() {
            let line: &[&str] = random.pick(&[
                &["prune", "-f"][..],
                &["prune", "-af"],
                &["prune", "-f", "--keep-storage", "1MB"],
                &["image", "prune", "-f"],
                &["du"],
            ]);
            let ended = kiln.call(Path::new("/"), line);
            if ended.status != 0 {
                failed.store(true, Ordering::Relaxed);
                panic!("{line:?}: {}", ended.stderr);
            }
            pruned.fetch_add(1, Ordering::Relaxed);
        }
    });
    eprintln!("{built:?} builds, {killed:?} killed, {pruned:?} prunes and looks");
    kiln.is_sound();
    let ended = kiln.build(contexts[0].path(), &["-t", "last", "--build-arg", "ROUND=last", "."]);
    assert_eq!(kiln.run(&["last", "cat", "/both"]), "0 last\nlast\n", "{}", ended.stderr);
    assert_eq!(kiln.run(&["last", "sh", "-c", "sha256sum -c /sums | grep -c OK"]).trim(), "20");
}

#[test]
fn a_step_that_many_want_runs_once_unless_its_runner_is_killed() {
    let Some(kiln) = Kiln::new("each step once") else { return };
    const STEPS: usize = 4;
    let mut text = String::from("FROM busybox\n");
    for step in 0..STEPS {
        text += &format!(
            "RUN --mount=type=cache,id=log,target=/log echo {step} >> /log/runs && echo {step} > /{step}\n"
        );
    }
    let context = Context::with_dockerfile(&text);
    let spawn = || {
        let mut command = kiln.command(context.path(), &["build", "--progress=plain", "-t", "once", "."]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut random = Random::new(7);
    let mut builds: Vec<Child> = (0..BUILDERS).map(|_| spawn()).collect();
    let kills = 3;
    for mut victim in builds.drain(..kills) {
        std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    for build in builds {
        let ended = ended(build);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    let show = Context::with_dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=log,target=/log cat /log/runs > /runs\n",
    );
    kiln.build(show.path(), &["-t", "show", "."]);
    let runs = kiln.run(&["show", "cat", "/runs"]);
    // Each kill may have come between the end of a step and its record.
    assert!((STEPS..=STEPS + kills).contains(&runs.lines().count()), "{runs}");
    for step in 0..STEPS {
        assert!(runs.lines().any(|line| line == step.to_string()), "{runs}");
    }
}

fn ended(child: Child) -> Ended {
    Ended::from(child.wait_with_output().unwrap())
}
