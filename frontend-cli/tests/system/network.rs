//! What RUN steps reach and what they may use, by the words on the command line.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use kiln_fixtures::script;

use crate::kiln::{Ended, Kiln, is_root_to};

/// A kiln and a folder with this Dockerfile.
fn kiln(test: &str, dockerfile: &str) -> Option<(Kiln, tempfile::TempDir)> {
    let kiln = Kiln::new(test)?;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    Some((kiln, folder))
}

/// A server on the host's loopback that says `reached` to who asks; its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(b"reached\n");
        }
    });
    port
}

/// Whether pasta has a device to work with: udev lets every user open it, and root always may.
fn may_open_tun(test: &str) -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok()
        || is_root_to("open this machine's /dev/net/tun", test)
}

#[test]
fn the_hosts_loopback_is_reached_where_the_host_s_network_is_asked_for_and_nowhere_else() {
    let ask = "echo | nc 127.0.0.1 $PORT";
    let dockerfile = format!("FROM busybox\nARG PORT\nARG FLAG\nRUN echo heard: $( {ask} ); ip route\n");
    if !may_open_tun("network") {
        return;
    }
    let Some((kiln, folder)) = kiln("network", &dockerfile) else { return };
    let port = format!("PORT={}", server());
    let heard =
        |network: &str| kiln.build(folder.path(), &["--no-cache", network, "--build-arg", &port, "."]);
    heard("--network=host").says("heard: reached");
    for network in ["--network=isolated", "--network=default"] {
        let ended = heard(network);
        assert!(!ended.stderr.contains("heard: reached"), "{}", ended.stderr);
        ended.says("default via ");
        assert!(!ended.stderr.contains("pasta"), "{}", ended.stderr);
    }
    let ended = heard("--network=none");
    assert!(
        !ended.stderr.contains("heard: reached") && !ended.stderr.contains("default via"),
        "{}",
        ended.stderr
    );
}

#[test]
fn steps_resolve_the_names_that_the_host_resolves() {
    let name = "deb.debian.org";
    if std::net::ToSocketAddrs::to_socket_addrs(&(name, 80)).is_err() {
        eprintln!("skipped: the host itself does not resolve {name}");
        return;
    }
    // glibc's resolver, unlike busybox's, takes answers from nobody but whom it asked.
    let dockerfile = format!("FROM debian\nRUN getent hosts {name}\n");
    let Some((kiln, folder)) = kiln("resolving", &dockerfile) else { return };
    kiln.build(folder.path(), &["."]).says(name);
}

#[test]
fn a_network_that_fails_is_no_matter_to_who_never_uses_it() {
    // Else it is known beforehand that pasta fails.
    if !may_open_tun("a network that fails") {
        return;
    }
    let dockerfile =
        "FROM busybox\nRUN echo alone\nRUN ip route > /routes && echo asked\nRUN ip route > /again\n";
    let Some((kiln, folder)) = kiln("network_fails", dockerfile) else { return };
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    script(&programs.join("pasta"), "#!/bin/sh\necho no such luck >&2\nexit 1\n");
    let build = |network: &str| -> Ended {
        let mut command = kiln.command(folder.path(), &["build", "--progress=plain", network, "."]);
        command.env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()));
        command.output().unwrap().into()
    };
    let required = build("--network=isolated");
    required.says("DONE");
    required.says("alone");
    required.says("`pasta` failed: no such luck");
    assert_ne!(required.status, 0);
    // Said once, and the step that asked begins anew.
    let ended = build("--network=default");
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("no such luck").count(), 1, "{}", ended.stderr);
}

#[test]
fn names_are_resolved_as_the_command_line_says() {
    let dockerfile = "FROM busybox\nRUN cat /etc/resolv.conf /etc/hosts\n";
    let Some((kiln, folder)) = kiln("names", dockerfile) else { return };
    let flags = ["--dns=9.9.9.9", "--dns-search=example.org", "--dns-option=ndots:2"];
    let hosts = ["--add-host=db:10.0.0.9,[fd00::9]", "--add-host=up=host-gateway", "--network=host"];
    let ended = kiln.build(folder.path(), &[&flags[..], &hosts[..], &["."]].concat());
    for line in ["nameserver 9.9.9.9", "search example.org", "options ndots:2"] {
        ended.says(line);
    }
    for line in ["10.0.0.9\tdb", "fd00::9\tdb", "127.0.0.1\tup"] {
        ended.says(line);
    }
}

#[test]
fn a_step_that_uses_too_much_is_told_what_ran_out() {
    let dockerfile = "FROM busybox AS memory\nRUN head -c 300000000 /dev/zero | tail -c 200000000 >/dev/null\n\
                      FROM busybox AS time\nRUN sleep 60\n";
    let Some((kiln, folder)) = kiln("limits", dockerfile) else { return };
    let fails = |words: &[&str]| {
        let ended = kiln.call(folder.path(), &[&["build", "--progress=plain"], words, &["."]].concat());
        assert_ne!(ended.status, 0, "{}", ended.stderr);
        ended
    };
    if is_root_to("make control groups that nobody has delegated", "limits of memory") {
        fails(&["--memory=32m", "--target=memory"])
            .says("the step's 32 MiB of memory ran out: raise --memory");
        fails(&["--resource=memory=32m", "--target=memory"]).says("the step's 32 MiB of memory ran out");
    }
    fails(&["--step-timeout=200ms", "--target=time"]).says("killed after the 200ms of --step-timeout");
    fails(&["--timeout=1s", "--target=time"]).says("the build took longer than 1s");
}
