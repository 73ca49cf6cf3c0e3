//! A: escaping through the root file system and mounts.

use std::path::Path;

use super::Who;

#[test]
fn a1_a_working_directory_never_leads_to_a_descriptor_of_the_engine() {
    for who in Who::all("threat A1") {
        for number in [3, 7, 8, 20] {
            let dockerfile =
                format!("FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN cat ../../../SENTINEL/file; ls\n");
            let words = format!("entering the working directory /proc/self/fd/{number}: ");
            who.refuses(&format!("a1-{number}"), &dockerfile, &words);
        }
        let link = "FROM busybox\nRUN ln -s /proc/self/fd/7 /w\nWORKDIR /w\nRUN ls ../..\n";
        who.refuses("a1-link", link, "entering the working directory /w: ");
        // What is open in a step is its three streams (and, by `ls`, the directory it lists).
        let open = "FROM busybox\nRUN ! ls -l /proc/self/fd | grep -e '->' | grep -vE -e '-> (/dev/null|pipe:.*|/proc/[0-9]+/fd)$' && \
                    [ $(readlink /proc/self/cwd) = / ]\n";
        who.survives("a1-open", open);
    }
}

#[test]
fn a2_the_engines_program_is_neither_run_nor_changed_by_a_step() {
    for who in Who::all("threat A2") {
        let words = "cannot be executed: Permission denied";
        who.refuses("a2", "FROM busybox\nRUN rm /bin/sh && ln -s /proc/self/exe /bin/sh\nRUN true\n", words);
        who.refuses("a2-shell", "FROM busybox\nSHELL [\"/proc/self/exe\", \"version\"]\nRUN true\n", words);
        let script =
            "FROM busybox\nRUN printf '#!/proc/self/exe\\n' >/evil && chmod 755 /evil\nRUN [\"/evil\"]\n";
        who.refuses("a2-script", script, words);
        who.survives(
            "a2-open",
            "FROM busybox\nRUN for p in /proc/[0-9]*; do (: >>$p/exe) 2>/dev/null && exit 9; done; true\n",
        );
    }
}

#[test]
fn a3_a5_a6_kernel_directories_of_an_image_that_are_links_are_refused() {
    for who in Who::all("threats A3, A5, A6") {
        for name in ["proc", "sys", "dev"] {
            let copied = format!(
                "FROM busybox AS b\nRUN mkdir /t && cp -a /bin /t/bin && ln -s SENTINEL/dir /t/{name}\n\
                 FROM scratch\nCOPY --from=b /t /\nRUN echo x >/{name}/evil; ls /{name}/\n"
            );
            who.refuses(&format!("link-{name}"), &copied, &format!("/{name}: Not a directory"));
        }
        let null = "FROM busybox AS b\nRUN mkdir -p /t/dev && cp -a /bin /t/bin && ln -s /proc/sys/kernel/core_pattern /t/dev/null\n\
                    FROM scratch\nCOPY --from=b /t /\nRUN stat -c %F /dev/null | grep -q 'character special' && cat /proc/keys | wc -c | grep -qx 0\n";
        who.survives("a3", null);
    }
}

#[test]
fn a8_links_of_an_image_never_lead_workdir_copy_or_etc_files_to_the_host() {
    for who in Who::all("threat A8") {
        let dockerfile = "FROM busybox\nRUN ln -s /../../SENTINEL/dir /app && ln -s SENTINEL/dir /abs\n\
                          WORKDIR /app/new\nRUN touch here\nCOPY file /abs/file\nADD file /app/file2\n\
                          RUN test -e SENTINEL/dir/new/here && test -e SENTINEL/dir/file\n";
        who.survives("a8", dockerfile);
        let etc = "FROM busybox AS b\nRUN mkdir -p /t/etc && cp -a /bin /t/bin && ln -s SENTINEL/file /t/etc/resolv.conf && \
                   ln -s /../../SENTINEL/new /t/etc/hosts\nFROM scratch\nCOPY --from=b /t /\nRUN cat /etc/hosts; true\n";
        who.survives("a8-etc", etc);
    }
}

#[test]
fn a11_ids_of_caches_and_secrets_are_never_paths() {
    for who in Who::all("threat A11") {
        let long = "x".repeat(4096);
        for (number, id) in
            ["../../../../SENTINEL/dir", "..", ".", "/", "a/../../b", &long].iter().enumerate()
        {
            let dockerfile =
                format!("FROM busybox\nRUN --mount=type=cache,id={id},target=/c touch /c/x{number}\n");
            who.survives(&format!("a11-{number}"), &dockerfile);
        }
        let mounts = std::fs::read_dir(who.store().join("mounts")).unwrap().count();
        assert!(mounts >= 6, "{mounts}");
        let secret = "FROM busybox\nRUN --mount=type=secret,id=../../../SENTINEL/file,required=true cat /run/secrets/*\n";
        who.refuses("a11-secret", secret, "/file: not found").says("hint: give it with `--secret id=");
    }
}

#[test]
fn a12_a_link_in_another_stage_means_that_stages_own_root() {
    for who in Who::all("threat A12") {
        let dockerfile = "FROM busybox AS stage\nRUN ln -s / /d && ln -s SENTINEL /s\nFROM busybox\n\
                          RUN --mount=type=bind,from=stage,source=/d,target=/x,rw test -e /x/bin/sh && touch /x/BREAKOUT\n";
        who.survives("a12", dockerfile);
        assert!(!Path::new("/BREAKOUT").exists());
        let other = "FROM busybox AS stage\nRUN ln -s SENTINEL /s\nFROM busybox\n\
                     RUN --mount=type=bind,from=stage,source=/s,target=/x,rw cat /x/file\n";
        who.refuses("a12-host", other, "opening the source of the mount /x: No such file or directory");
        who.refuses(
            "a12-copy",
            "FROM busybox AS stage\nRUN ln -s SENTINEL /s\nFROM busybox\nCOPY --from=stage /s/file /f\n",
            "/s/file: not found",
        );
    }
}

#[test]
fn a16_control_groups_are_read_only() {
    for who in Who::all("threat A16") {
        let words = "Read-only file system";
        who.denies("a16", "", &[("touch /sys/fs/cgroup/x", words), ("mkdir /sys/fs/cgroup/y", words)]);
    }
}

#[test]
fn a17_the_engines_environment_is_nowhere_to_be_found() {
    for who in Who::all("threat A17") {
        let dockerfile = "FROM busybox\nRUN env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; ls -l /proc/*/exe; true\n";
        let folder = who.folder("a17", &[("Dockerfile", dockerfile)]);
        let ended = who.build_with(&folder, ("CANARY_VARIABLE", "canary-value"), &["-t", "a17", "."]);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert!(!ended.stderr.contains("canary-value"), "{}", ended.stderr);
    }
}

#[test]
fn a18_no_helper_of_an_image_is_ever_run_by_the_engine() {
    for who in Who::all("threat A18") {
        let dockerfile = "FROM busybox\n\
            RUN for n in gzip gunzip unpigz xz zstd tar git newuidmap newgidmap useradd getent; do \
                printf '#!/bin/sh\\ntouch /TROJAN\\n' >/bin/$n.new && chmod 755 /bin/$n.new && rm -f /bin/$n && mv /bin/$n.new /bin/$n; done\n\
            ADD archive.tar.gz /x/\nCOPY --chown=65534 file /y\nUSER 65534\nRUN test ! -e /TROJAN && test -e /x/inner\n";
        let folder = who.folder("a18", &[("Dockerfile", dockerfile), ("file", "text"), ("inner", "inner")]);
        let packed = std::process::Command::new("tar")
            .args(["-czf", "archive.tar.gz", "inner"])
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(packed.success());
        who.build(&folder, &["-t", "a18", "."]);
    }
}

#[test]
fn a19_a20_capabilities_are_not_inherited_and_numbers_are_no_names() {
    for who in Who::all("threats A19, A20") {
        let dockerfile = "FROM busybox\n\
            RUN grep -E 'Cap(Inh|Amb)' /proc/self/status | grep -qv 0000000000000000 && exit 1; true\n\
            RUN echo '1000:x:0:0::/root:/bin/sh' >>/etc/passwd && echo 'plain:x:1001:1001::/:/bin/sh' >>/etc/passwd && \
                echo 'extra:x:900:plain' >>/etc/group && echo '1001:x:0:' >>/etc/group\n\
            USER 1000\nRUN id -u >/tmp/n && test \"$(id -u)\" = 1000 && test \"$(cat /tmp/n)\" = 1000 && \
                grep -E 'Cap(Prm|Eff|Inh|Amb)' /proc/self/status | grep -qv 0000000000000000 && exit 1; test \"$(id -u)\" = 1000\n\
            USER plain\nRUN test \"$(id -G)\" = '1001 900'\n\
            USER 1000:1001\nRUN test \"$(id -g)\" = 1001\n";
        who.survives("a19", dockerfile);
        // To setresuid(2) this number means "leave it as it is": root.
        for user in ["4294967295", "0:4294967295", "4294967296", "-1"] {
            let dockerfile = format!("FROM busybox\nUSER {user}\nRUN id\n");
            let (ended, sound) = who.attempt("a20-range", &dockerfile);
            assert!(sound && ended.status != 0 && !ended.stderr.contains("uid=0"), "{}", ended.stderr);
        }
        let named = "FROM busybox\nRUN echo 'x:x:4294967295:0::/:/bin/sh' >>/etc/passwd\nUSER x\nRUN id\n";
        who.refuses("a20-named", named, "unable to find user x");
        who.refuses("a20-chown", "FROM busybox\nCOPY --chown=4294967295 file /\n", "ids go up to 2147483647");
    }
}

#[test]
fn a4_a_terminals_devices_are_never_the_images() {
    for who in Who::all("threat A4") {
        // Seen as `x` in the sentinel, were the console mounted on or opened through the image's link.
        let dockerfile = "FROM busybox AS b\nRUN mkdir -p /t/dev && cp -a /bin /t/bin && ln -s SENTINEL/file /t/dev/console && \
                          ln -s SENTINEL/dir /t/dev/pts\nFROM scratch\nCOPY --from=b /t /\n";
        who.survives("a4", dockerfile);
        let sentinel = who.folder("a4-terminal", &[]);
        let words = [
            "run",
            "--rm",
            "-t",
            "a4",
            "sh",
            "-c",
            "echo x >/dev/console; echo y >/dev/pts/0; stat -c %F /dev/console",
        ];
        let ended = who.call(&sentinel, &words);
        ended.says("character special file");
        let kept = std::fs::read_to_string(sentinel.parent().unwrap().join("a4-sentinel/file")).unwrap();
        assert_eq!(kept, "untouched");
    }
}

#[test]
fn a13_only_known_keys_of_mounts_are_taken() {
    for who in Who::all("threat A13") {
        for (option, words) in [
            ("bind-propagation=rshared", "mount option 'rshared' is not supported"),
            ("bind-propagation=other", "invalid value for bind-propagation: other"),
            ("relabel=other", "invalid value for relabel: other"),
            ("zz", "invalid field 'zz' must be a key=value pair"),
            ("suid", "invalid field 'suid' must be a key=value pair"),
            ("dev", "invalid field 'dev' must be a key=value pair"),
            ("lowerdir=/", "unexpected key 'lowerdir'"),
            ("options=rw", "unexpected key 'options'"),
            ("type=overlay", "unsupported mount type \"overlay\""),
        ] {
            let dockerfile = format!("FROM busybox\nRUN --mount=type=bind,target=/x,{option} true\n");
            let ended = who.refuses("a13", &dockerfile, words);
            ended.says("Dockerfile:2");
        }
    }
}

#[test]
fn a14_c10_accounts_of_an_image_are_regular_files_of_a_bounded_size() {
    for who in Who::all("threats A14, C10") {
        // A build that opened the pipe, or read the sparse file, would not end.
        let nobody = "unable to find user somebody: no matching entries";
        for (name, made, words) in [
            ("pipe", "mkfifo /etc/passwd", "etc/passwd: not a regular file"),
            ("kernel", "ln -s /proc/kmsg /etc/passwd", nobody),
            ("host", "ln -s SENTINEL/file /etc/passwd", nobody),
            ("large", "truncate -s 16M /etc/passwd", "etc/passwd: more than 4194304 bytes"),
        ] {
            let dockerfile =
                format!("FROM busybox\nRUN rm -f /etc/passwd && {made}\nUSER somebody\nRUN true\n");
            who.refuses(&format!("a14-{name}"), &dockerfile, words);
        }
    }
}
