//! Several processes: this test binary starts itself, with a role in the environment.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

const ROLE: &str = "KILN_CACHE_TEST_ROLE";
const ROOT: &str = "KILN_CACHE_TEST_ROOT";

/// Not a test: what a started process does.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let store = Store::open(&PathBuf::from(std::env::var_os(ROOT).unwrap())).unwrap();
    match role.as_str() {
        // Runs steps that others run too; appends a line to a file for each that it made itself.
        "build" => {
            for step in 0..20 {
                let name = format!("step {step}");
                let record = match lookup(&store, &name) {
                    Lookup::Found(record) => record,
                    Lookup::Missing(claim) => {
                        use std::io::Write;
                        let runs = store.root().parent().unwrap().join("runs");
                        let mut runs =
                            std::fs::OpenOptions::new().append(true).create(true).open(runs).unwrap();
                        runs.write_all(format!("{name}\n").as_bytes()).unwrap();
                        commit(&store, claim, &name).unwrap()
                    }
                };
                assert_eq!(file_of(&store, &record.layers[0]), name);
            }
        }
        // Takes a step and never ends.
        "hold" => {
            let _claim = claim(&store, "held");
            let _draft = draft(&store, "held");
            eprintln!("holding");
            loop {
                std::thread::park();
            }
        }
        // Commits steps, pulls layers, writes blobs until it is killed.
        "loop" => {
            for round in 0_u64.. {
                let name = format!("{} {round}", std::process::id());
                eprintln!("round");
                run_step(&store, &name);
                eprintln!("round");
                run_step(&store, &format!("shared {}", round % 5));
                eprintln!("round");
                pull(&store, &name);
                eprintln!("round");
                store.put_blob(name.as_bytes()).unwrap();
            }
        }
        // Makes what `recovery` wants to see after a stop.
        "stop" => {
            run_step(&store, "settled");
            store.settle().unwrap();
            run_step(&store, "a");
            pull(&store, "base");
            store.put_image(&super::images::image(&store, Some("a"), "one")).unwrap();
            store.put_blob(b"good").unwrap();
            store.put_blob(b"bad").unwrap();
            eprintln!("made");
            loop {
                std::thread::park();
            }
        }
        "stop digested" => {
            for name in ["good", "bad"] {
                claim(&store, name).commit(draft(&store, name), None, NewRecord::default()).unwrap();
            }
            eprintln!("made");
            loop {
                std::thread::park();
            }
        }
        other => panic!("no role {other}"),
    }
}

/// A store whose only user was killed, and whose settling thread is dead with it.
pub(crate) fn stopped_store(role: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut child = start(role, &root);
    wait_for(&mut child, "made");
    child.kill().unwrap();
    child.wait().unwrap();
    (dir, root)
}

fn start(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, word: &str) {
    // A line at a time from the pipe itself: a dropped buffer would swallow what comes after the word.
    let stderr = child.stderr.as_mut().unwrap();
    let mut lines = BufReader::with_capacity(1, stderr).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)), "the process ended before `{word}`");
}

#[test]
fn equal_steps_run_once_among_several_processes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    // The store does not exist yet: making it is part of the race.
    let children: Vec<_> = (0..6).map(|_| start("build", &root)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let runs = std::fs::read_to_string(dir.path().join("runs")).unwrap();
    let mut names: Vec<_> = runs.lines().collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!((all, names.len()), (20, 20));
    assert_sound(&Store::open(&root).unwrap());
}

#[test]
fn a_killed_holder_is_replaced_and_its_draft_swept() {
    let (_dir, store) = store();
    let mut child = start("hold", store.root());
    wait_for(&mut child, "holding");
    let pid = child.id();
    let mut holders = Vec::new();
    let lookup = store
        .find_or_claim(
            &key("held"),
            &mut |wait| {
                let kiln_cache::Wait::Holder(holder) = wait else { return };
                holders.push(holder);
                child.kill().unwrap();
            },
            &AtomicBool::new(false),
        )
        .unwrap();
    child.wait().unwrap();
    assert_eq!(holders, [Some(pid)]);
    let Lookup::Missing(claim) = lookup else { panic!("nobody made it") };
    commit(&store, claim, "held").unwrap();
    let other = Store::open(store.root()).unwrap();
    assert!(other.find(&key("held")).unwrap().is_some());
    assert_sound(&other);
}

#[test]
fn a_living_process_is_not_swept() {
    let (_dir, store) = store();
    let mut child = start("hold", store.root());
    wait_for(&mut child, "holding");
    let _other = Store::open(store.root()).unwrap();
    assert!(!is_empty(&store.root().join("work")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_kill_at_any_moment_leaves_a_sound_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut found = 0;
    for round in 0..50_u64 {
        let mut children = [start("loop", &root), start("loop", &root)];
        // They write on while the lines are read, so that the kill comes at another instant each time.
        for _ in 0..=round * 7 % 23 {
            wait_for(&mut children[0], "round");
        }
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store = Store::open(&root).unwrap();
        assert_sound(&store);
        for shared in 0..5 {
            let name = format!("shared {shared}");
            if let Some(record) = store.find(&key(&name)).unwrap() {
                assert_eq!(file_of(&store, &record.layers[0]), name);
                found += 1;
            }
        }
    }
    assert!(found > 0, "no process lived long enough to commit");
    let store = Store::open(&root).unwrap();
    super::collect::prune_all(&store);
    assert_sound(&store);
}
