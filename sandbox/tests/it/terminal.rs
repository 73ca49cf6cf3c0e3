//! A terminal inside.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;

use kiln_sandbox::{Io, Terminal};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

use crate::support::{go, runtime, store};

/// A user's terminal of 33 rows and 77 columns: both of its ends.
fn user_terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let slave = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_has_the_users_size_and_input_and_is_put_back() {
    let Some(store) = store() else { return };
    let (master, slave) = user_terminal();
    let before = rustix::termios::tcgetattr(&slave).unwrap();
    let mut spec = store.shell(
        "tty; stty size; test -c /dev/console && echo console; read line; echo \"got $line\"; ps -o tty= -p $$ || true",
    );
    spec.io = Io::Terminal(Terminal {
        input: Some(slave.try_clone().unwrap()),
        output: slave.try_clone().unwrap(),
    });
    rustix::io::write(&master, b"typed\n").unwrap();
    if runtime().is_some() {
        let error = go(&spec).unwrap_err().to_string();
        assert!(error.contains("a terminal is given by the embedded executor only"), "{error}");
        return;
    }
    let ran = go(&spec).unwrap();
    assert_eq!(ran.code(), 0, "{ran:?}");
    let after = rustix::termios::tcgetattr(&slave).unwrap();
    assert_eq!(before.local_modes, after.local_modes);
    drop((slave, spec));
    let mut output = Vec::new();
    // A master whose other end is closed gives an error after the last byte.
    let _ = fs::File::from(master).read_to_end(&mut output);
    let output = String::from_utf8_lossy(&output);
    for expected in ["/dev/pts/0", "33 77", "console", "got typed"] {
        assert!(output.contains(expected), "{expected}: {output}");
    }
    assert_eq!(store.upper_entries(), [""; 0]);
}

#[test]
fn given_descriptors_are_the_commands() {
    let Some(store) = store() else { return };
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (input, mut typed) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut typed, b"in\n").unwrap();
    drop(typed);
    let mut spec = store.shell("cat; echo err >&2");
    let stdout: OwnedFd = writer.into();
    let stderr = stdout.try_clone().unwrap();
    spec.io = Io::Inherit { stdin: Some(input.into()), stdout, stderr };
    assert_eq!(go(&spec).unwrap().code(), 0);
    drop(spec);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "in\nerr\n");
}
