//! F: secrets and information.

use super::Who;

#[test]
fn f1_f2_a_secret_is_nowhere_but_where_the_step_put_it() {
    for who in Who::all("threats F1, F2") {
        let dockerfile = "FROM busybox\nARG TOKEN\n\
            RUN --mount=type=secret,id=key --mount=type=secret,id=key,target=/deep/in/a/file --mount=type=secret,id=key,env=KEY \
                test \"$KEY\" = \"$(cat /run/secrets/key)\" && test -s /deep/in/a/file\n\
            RUN test ! -e /run/secrets && test ! -e /deep && test -z \"$KEY\"\n";
        let secret = "canary-5e0c1b7a92d4";
        let folder = who.folder("f2", &[("Dockerfile", dockerfile), ("file", "x")]);
        let secrets = who.folder("f2-secrets", &[("key", secret)]);
        let word = format!("id=key,src={}", secrets.join("key").display());
        let ended =
            who.build(&folder, &["-D", "-t", "f2", "--secret", &word, "-o", "type=oci,dest=out.tar", "."]);
        assert!(!ended.stderr.contains(secret));
        let found = std::process::Command::new("grep")
            .args(["-rlaF", secret])
            .arg(who.store())
            .arg(folder.join("out.tar"))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

#[test]
fn f4_nothing_outlives_its_step() {
    for who in Who::all("threat F4") {
        let dockerfile = "FROM busybox\nRUN (setsid sh -c 'sleep 1; echo late >/late') & true\nRUN sleep 2; test ! -e /late\n";
        who.survives("f4", dockerfile);
    }
}

#[test]
fn f2_a_secret_left_in_a_layer_fails_the_build_and_is_masked_in_the_log() {
    for who in Who::all("threat F2") {
        let secret = "canary-8d1f33c2a60b";
        let secrets = who.folder("f2-kept", &[("key", secret)]);
        let word = format!("id=key,src={}", secrets.join("key").display());
        // As a file, in a file's middle, as a name, where a link leads.
        for keep in [
            "cp /run/secrets/key /kept",
            "(head -c 300000 /dev/zero; cat /run/secrets/key; echo more) >/kept",
            "mkdir /kept && touch \"/kept/$(cat /run/secrets/key)\"",
            "ln -s \"$(cat /run/secrets/key)\" /kept",
        ] {
            let dockerfile =
                format!("FROM busybox\nRUN --mount=type=secret,id=key cat /run/secrets/key; {keep}\n");
            let folder = who.folder("f2-keeps", &[("Dockerfile", &dockerfile)]);
            let refused = who.try_build(&folder, &["-D", "-t", "f2", "--secret", &word, "."]);
            assert_ne!(refused.status, 0, "{}", refused.stderr);
            refused.says("the secret `key` is in the layer: /kept");
            refused.says("--allow-secret-in-layer");
            refused.says("***");
            assert!(!refused.stderr.contains(secret) || keep.starts_with("mkdir"), "{}", refused.stderr);
        }
        let found =
            std::process::Command::new("grep").args(["-rlaF", secret]).arg(who.store()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
        let folder = who.folder("f2-keeps", &[]);
        who.build(&folder, &["-t", "f2", "--secret", &word, "--allow-secret-in-layer", "."]);
    }
}

#[test]
fn f3_an_agents_socket_is_there_for_the_steps_that_ask() {
    for who in Who::all("threat F3") {
        let folder = who.folder("f3", &[("Dockerfile", "FROM busybox\n\
            RUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo \"$SSH_AUTH_SOCK\" >/where && (setsid sleep 99 <\"$SSH_AUTH_SOCK\" & true)\n\
            RUN test -z \"$SSH_AUTH_SOCK\" && test -s /where && test ! -e \"$(cat /where)\" && test ! -S /run/buildkit/ssh_agent.0\n")]);
        let socket = folder.join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&socket, open).unwrap();
        let word = format!("default={}", socket.display());
        who.build(&folder, &["-t", "f3", "--ssh", &word, "."]);
    }
}

#[test]
fn f6_without_network_nothing_is_reached() {
    for who in Who::all("threat F6") {
        // Busybox' own client says what the kernel said.
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        host.set_nonblocking(true).unwrap();
        let port = host.local_addr().unwrap().port();
        let dockerfile = format!(
            "FROM busybox\nRUN --network=none test \"$(grep -c : /proc/net/dev)\" = 1 && \
             nslookup example.org 2>&1 | grep -q 'Network is unreachable' && \
             nc -w 1 198.51.100.1 80 2>&1 </dev/null | grep -q 'Network is unreachable' && \
             nc -w 1 127.0.0.1 {port} 2>&1 </dev/null | grep -q 'Connection refused'\n"
        );
        who.survives("f6", &dockerfile);
        assert_eq!(host.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
