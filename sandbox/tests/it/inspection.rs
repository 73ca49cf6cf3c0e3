//! What a step finds out about its own confinement, beside what `docker run` of a default installation shows (moby,
//! `daemon/pkg/oci/defaults.go` and `caps/defaults.go`, and its default filter).

use std::fs;

use crate::support::{go, runtime, store};

/// Lines of `/proc/self/status` of a root step.
const STATUS: &[(&str, &str)] = &[
    ("CapInh", "0000000000000000"),
    ("CapPrm", "00000000a80425fb"),
    ("CapEff", "00000000a80425fb"),
    ("CapBnd", "00000000a80425fb"),
    ("CapAmb", "0000000000000000"),
    ("NoNewPrivs", "0"),
    // 2 is a filter.
    ("Seccomp", "2"),
];

/// Namespaces of a step's own.
const OWN_NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// Those of the engine: docker makes none of users either, unless the daemon is told to.
const SHARED_NAMESPACES: &[&str] = &["user"];

/// Hidden: not there, an empty directory, or a file in which nothing is. Of every processor, `thermal_throttle` as well.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys"];

/// `ls -l /dev`: kind and name; of devices their numbers, of links where they lead.
const DEVICES: &str = "l core /proc/kcore\n\
                       l fd /proc/self/fd\n\
                       c full 1:7\n\
                       d mqueue\n\
                       c null 1:3\n\
                       l ptmx pts/ptmx\n\
                       d pts\n\
                       c random 1:8\n\
                       d shm\n\
                       l stderr /proc/self/fd/2\n\
                       l stdin /proc/self/fd/0\n\
                       l stdout /proc/self/fd/1\n\
                       c tty 5:0\n\
                       c urandom 1:9\n\
                       c zero 1:5\n";

/// Where file systems of the kernel's are, which, and options that each of them has.
const MOUNTS: &[(&str, &str, &[&str])] = &[
    ("/dev", "tmpfs", &["rw", "nosuid"]),
    ("/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec"]),
    ("/dev/pts", "devpts", &["rw", "nosuid", "noexec"]),
    ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec"]),
    ("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"]),
    ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
];

#[test]
fn capabilities_and_filter_are_dockers() {
    let Some(store) = store() else { return };
    let status = store.sh("cat /proc/self/status");
    for (field, expected) in STATUS {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        assert_eq!(line.map(str::trim), Some(*expected), "{field}");
    }
}

#[test]
fn namespaces_are_of_the_steps_own() {
    let Some(store) = store() else { return };
    for (names, own) in [(OWN_NAMESPACES, true), (SHARED_NAMESPACES, false)] {
        for name in names {
            let link = format!("/proc/self/ns/{name}");
            let inside = store.sh(&format!("readlink {link}"));
            let outside = fs::read_link(&link).unwrap();
            assert_eq!(inside.trim() != outside.to_str().unwrap(), own, "{name}: {inside}");
        }
    }
}

#[test]
fn what_docker_masks_is_masked() {
    let Some(store) = store() else { return };
    let mut paths: Vec<String> = MASKED.iter().map(|path| (*path).to_owned()).collect();
    for entry in fs::read_dir("/sys/devices/system/cpu").unwrap().flatten() {
        paths.push(format!("{}/thermal_throttle", entry.path().display()));
    }
    let script = "for path in \"$@\"; do if [ -d $path ]; then ls -A $path; elif [ -e $path ]; then cat $path; fi; done";
    let mut words = vec!["/bin/sh", "-c", script, "sh"];
    words.extend(paths.iter().map(String::as_str));
    let ran = go(&store.command(&words)).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code()), ("", "", 0));
    // The host itself has something to tell in at least one of them, or nothing was tested.
    assert!(fs::read("/proc/interrupts").is_ok_and(|text| !text.is_empty()));
}

#[test]
fn what_docker_makes_read_only_is_read_only() {
    let Some(store) = store() else { return };
    let mounts = store.sh("cat /proc/self/mountinfo");
    for path in READ_ONLY.iter().filter(|path| fs::exists(path).unwrap()) {
        let options: Vec<&str> = mounts
            .lines()
            .filter(|line| line.split(' ').nth(4) == Some(*path))
            .filter_map(|line| line.split(' ').nth(5))
            .collect();
        assert!(options.last().is_some_and(|options| options.starts_with("ro")), "{path}: {options:?}");
    }
}

#[test]
fn devices_are_dockers() {
    let Some(store) = store() else { return };
    let script = "cd /dev; for name in *; do if [ -L $name ]; then echo l $name $(readlink $name); \
                  elif [ -c $name ]; then echo c $name $((0x$(stat -c %t $name))):$((0x$(stat -c %T $name))); \
                  elif [ -d $name ]; then echo d $name; else echo f $name; fi; done";
    let (found, mut expected) = (store.sh(script), DEVICES.to_owned());
    // runc looks whether the kernel has it.
    if runtime().is_some() && !fs::exists("/proc/kcore").unwrap() && !found.contains("kcore") {
        expected = expected.replace("l core /proc/kcore\n", "");
    }
    assert_eq!(found, expected);
}

#[test]
fn file_systems_of_the_kernel_are_dockers() {
    let Some(store) = store() else { return };
    let mounts = store.sh("cat /proc/self/mounts");
    for (path, kind, expected) in MOUNTS {
        let fields: Vec<&str> = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(1) == Some(path))
            .unwrap_or_else(|| panic!("{path} is no mount:\n{mounts}"));
        assert_eq!(fields[2], *kind, "{path}");
        let options: Vec<&str> = fields[3].split(',').collect();
        assert!(expected.iter().all(|option| options.contains(option)), "{path}: {options:?}");
    }
}
