//! Limits: of control groups, of time, of single processes.

use std::time::Duration;

use kiln_sandbox::{ExitStatus, Limits, Resources, SandboxError, Spec, Swap};

use crate::support::{Ran, go, is_root_in_ci, long_time, processes_with, runtime, store};

fn limited(mut spec: Spec, resources: Resources) -> Spec {
    spec.limits = Limits { resources, ..Limits::default() };
    spec
}

/// `None`, with a word why, where no control group can be made: as an ordinary user without a delegated one.
fn run_limited(spec: Spec, resources: Resources) -> Option<Ran> {
    match go(&limited(spec, resources)) {
        Ok(ran) => Some(ran),
        Err(error @ SandboxError::Setup { .. }) if error.to_string().contains("control group") => {
            assert!(!is_root_in_ci(), "root has control groups: {error}");
            eprintln!("skipped: needs a writable control group: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_limit_of_tasks_holds() {
    let Some(store) = store() else { return };
    let spec = store.shell("for i in $(seq 64); do sleep 60 & done; echo all");
    // With control groups of version 1 a runtime's own threads count.
    let pids = if runtime().is_some() { 32 } else { 8 };
    let Some(ran) = run_limited(spec, Resources { pids: Some(pids), ..Resources::default() }) else { return };
    assert!(ran.stderr.contains("can't fork"), "{ran:?}");
}

#[test]
fn a_process_killed_for_memory_is_noticed() {
    let Some(store) = store() else { return };
    let spec = store.shell("head -c 300000000 /dev/zero | tail -c 200000000 >/dev/null; true");
    let resources = Resources { memory_bytes: Some(32 << 20), ..Resources::default() };
    let Some(ran) = run_limited(spec, resources) else { return };
    assert!(ran.exit.oom_killed, "{ran:?}");
}

#[test]
fn every_controller_takes_its_limit() {
    let Some(store) = store() else { return };
    let resources = Resources {
        memory_bytes: Some(64 << 20),
        memory_swap: Some(Swap::Unlimited),
        pids: Some(64),
        cpu_shares: Some(512),
        cpu_period_micros: Some(50_000),
        cpu_quota_micros: Some(25_000),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        parent: None,
    };
    let spec = store.shell("grep Cpus_allowed_list /proc/self/status; cat /proc/self/cgroup");
    let Some(ran) = run_limited(spec, resources) else { return };
    assert!(ran.stdout.starts_with("Cpus_allowed_list:\t0\n"), "{ran:?}");
    // The group is the root of what the step sees.
    assert!(ran.stdout.lines().skip(1).all(|line| !line.contains("kiln")), "{ran:?}");
}

#[test]
fn a_limit_that_the_kernel_refuses_is_an_error_that_names_it() {
    let Some(store) = store() else { return };
    let resources = Resources { cpuset_cpus: Some("4095".into()), ..Resources::default() };
    let error = go(&limited(store.shell("true"), resources)).unwrap_err().to_string();
    assert!(error.contains("control group"), "{error}");
}

#[test]
fn a_group_is_made_where_the_user_says_and_gone_afterwards() {
    let Some(store) = store() else { return };
    let parent = format!("kiln-test-{}", std::process::id());
    let resources =
        Resources { pids: Some(64), parent: Some(format!("/{parent}/inner")), ..Resources::default() };
    if run_limited(store.shell("true"), resources).is_none() {
        return;
    }
    let mut found = 0;
    for hierarchy in ["", "pids", "unified"] {
        let outer = std::path::Path::new("/sys/fs/cgroup").join(hierarchy).join(&parent);
        let Ok(entries) = std::fs::read_dir(outer.join("inner")) else { continue };
        found += 1;
        assert!(
            entries.flatten().all(|entry| !entry.path().is_dir()),
            "a group was left in {}",
            outer.display()
        );
        std::fs::remove_dir(outer.join("inner")).unwrap();
        std::fs::remove_dir(outer).unwrap();
    }
    assert_eq!(found, 1);
}

#[test]
fn a_command_is_killed_with_all_it_started_when_its_time_is_over() {
    let Some(store) = store() else { return };
    let time = long_time(1717);
    let mut spec = store.shell(&format!("echo started; (setsid sleep {time}) & sleep {time}"));
    spec.limits.time = Some(Duration::from_millis(50));
    let ran = go(&spec).unwrap();
    assert!(ran.exit.timed_out);
    assert_eq!(ran.exit.status, ExitStatus::Signal(9));
    assert_eq!(processes_with(&time), 0);
    spec = store.shell("true");
    spec.limits.time = Some(Duration::from_secs(600));
    assert!(!go(&spec).unwrap().exit.timed_out);
}
