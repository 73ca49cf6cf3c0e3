//! Life and death of what runs inside.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_sandbox::SandboxError;

use crate::support::{go, long_time, processes_with, run, store};

#[test]
fn background_processes_die_with_the_command_and_do_not_hold_the_output() {
    let Some(store) = store() else { return };
    let time = long_time(3141);
    let ran = go(&store.shell(&format!("(setsid sleep {time} &) ; sleep {time} & echo done"))).unwrap();
    assert_eq!(ran.stdout, "done\n");
    assert_eq!(processes_with(&time), 0);
}

#[test]
fn cancel_kills_grandchildren_as_well() {
    let Some(store) = store() else { return };
    let cancel = AtomicBool::new(false);
    let time = long_time(2718);
    let spec = store.shell(&format!("(setsid sh -c 'sleep {time}') & echo started; wait"));
    // The output says when there is something to cancel.
    let result = run(&spec, &mut |_, _| cancel.store(true, Ordering::Relaxed), &cancel);
    assert!(matches!(result, Err(SandboxError::Canceled)), "{result:?}");
    assert_eq!(processes_with(&time), 0);
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn the_command_is_the_first_process_and_sees_nothing_of_what_watches_it() {
    let Some(store) = store() else { return };
    let ran = go(&store.command(&["sh", "-c", "echo $$ $PPID; echo /proc/[0-9]*"])).unwrap();
    assert_eq!(ran.stdout, "1 0\n/proc/1\n");
}

#[test]
fn a_killed_supervisor_takes_the_command_with_it() {
    let Some(store) = store() else { return };
    let mut supervisor = None;
    let time = long_time(1123);
    let spec = store.shell(&format!("echo started; sleep {time}"));
    let mut kill = |_, _: &[u8]| {
        // The engine's child that waits for the command.
        let children = fs::read_to_string("/proc/thread-self/children").unwrap();
        supervisor = children.split_whitespace().next().map(str::to_owned);
        let killed = Command::new("kill").args(["-9", supervisor.as_deref().unwrap()]).status();
        assert!(killed.unwrap().success());
    };
    let exit = run(&spec, &mut kill, &AtomicBool::new(false)).unwrap();
    assert_eq!(exit.status, kiln_sandbox::ExitStatus::Signal(9));
    assert_eq!(processes_with(&time), 0);
}

#[test]
fn a_killed_engine_leaves_no_process_and_no_mount() {
    let Some(store) = store() else { return };
    let Some(example) = example() else {
        eprintln!("skipped: needs the example `run` (cargo build --example run)");
        return;
    };
    let (work, time) = (store.layer("work-directory"), long_time(1618));
    let mut engine = Command::new(example)
        .args([store.path("base"), store.upper(), work])
        .args(["sh", "-c", &format!("(setsid sleep {time}) & echo ready; wait")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(engine.stdout.as_mut().unwrap(), &mut ready).unwrap();
    engine.kill().unwrap();
    engine.wait().unwrap();
    // The init learns of it by a descriptor, in its own time.
    while processes_with(&time) > 0 {
        std::thread::yield_now();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(store.directory.path().to_str().unwrap()), "{mounts}");
}

/// The example's binary, which cargo builds along with the tests.
fn example() -> Option<std::path::PathBuf> {
    let own = std::env::current_exe().ok()?;
    let path = own.parent()?.parent()?.join("examples/run");
    path.exists().then_some(path)
}

#[test]
fn a_panic_of_the_output_function_ends_the_sandbox() {
    let Some(store) = store() else { return };
    let time = long_time(1414);
    let spec = store.shell(&format!("echo x; sleep {time}"));
    let result = std::panic::catch_unwind(|| {
        let _ = run(&spec, &mut |_, _| panic!("no room"), &AtomicBool::new(false));
    });
    assert!(result.is_err());
    assert_eq!(processes_with(&time), 0);
}
