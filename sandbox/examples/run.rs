//! Runs a command on a directory: `run ROOT UPPER WORK COMMAND…`; for looking at the sandbox from outside.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example is a program")]

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use kiln_sandbox::{
    Binfmt, Capabilities, ExitStatus, Identity, Io, Limits, Network, Output, Rootfs, Security,
    SecurityOptions, Spec, Terminal, run,
};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).collect::<Vec<_>>();
    let terminal = arguments.first().is_some_and(|first| first == "-t");
    if terminal {
        arguments.remove(0);
    }
    let [root, upper, work, argv @ ..] = arguments.as_slice() else {
        eprintln!("usage: run [-t] ROOT UPPER WORK COMMAND...");
        return ExitCode::FAILURE;
    };
    let own = |fd: std::io::Result<std::os::fd::OwnedFd>| fd.ok();
    use std::os::fd::AsFd;
    let input = own(std::io::stdin().as_fd().try_clone_to_owned());
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let spec = Spec {
        rootfs: Rootfs {
            layers: vec![root.into()],
            upper: upper.into(),
            work: work.into(),
            stubs: None,
            trees: None,
        },
        argv: argv.to_vec(),
        env: vec!["PATH=/bin:/usr/bin".into(), "TERM=xterm".into()],
        cwd: "/".into(),
        identity: Identity { home: "/root".into(), ..Identity::default() },
        hostname: "example".into(),
        mounts: Vec::new(),
        network: Network::None,
        extra_hosts: Vec::new(),
        dns: kiln_sandbox::Dns::default(),
        security: Security::Sandbox,
        capabilities: Capabilities::default(),
        options: SecurityOptions::default(),
        binfmt: Binfmt::AsIs,
        limits: Limits::default(),
        io: match (terminal, output) {
            (true, Ok(output)) => Io::Terminal(Terminal { input, output }),
            _ => Io::Captured,
        },
    };
    let started = std::time::Instant::now();
    let result = run(
        &spec,
        &mut |stream, bytes| {
            let _ = match stream {
                Output::Stdout => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                Output::Stderr => std::io::stderr().write_all(bytes),
            };
        },
        &AtomicBool::new(false),
    );
    match result {
        Ok(exit) => {
            if std::env::var_os("TIMES").is_some() {
                eprintln!("{:?} {:?}", started.elapsed(), exit);
            }
            match exit.status {
                ExitStatus::Code(code) => ExitCode::from(code as u8),
                ExitStatus::Signal(signal) => ExitCode::from(128 + signal as u8),
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(125)
        }
    }
}
