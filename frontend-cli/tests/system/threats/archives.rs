//! B: layers, ADD and archives. What single entries of an archive can try is tested where they are read, in `image`.

use std::path::Path;
use std::process::Command;

use super::Who;
use crate::kiln::{facts, is_root_to};

/// Runs a script of the host's in `folder`.
#[track_caller]
fn host(folder: &Path, script: &str) {
    let ended = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(ended.status.success(), "{script}: {}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn b1_b2_archives_never_write_outside_of_the_root() {
    for who in Who::all("threats B1, B2") {
        let sentinel = who.folder("b1-sentinel", &[("file", "untouched"), ("dir/x", "untouched")]);
        let at = sentinel.display();
        let before = facts(&sentinel);
        for (name, script) in [
            ("climbs", format!("echo evil >x; tar -cPf a.tar --transform 's,^x,../../../../..{at}/file,' x")),
            ("absolute", format!("echo evil >x; tar -cPf a.tar --transform 's,^x,{at}/file,' x")),
            (
                "through",
                format!(
                    "ln -s {at} l; tar -cf a.tar l; rm l; mkdir l; echo evil >l/file; tar -rf a.tar l/file"
                ),
            ),
            ("folder", format!("ln -s {at}/dir l; tar -cf a.tar l; rm l; mkdir -m 777 l; tar -rf a.tar l")),
            (
                "link",
                format!(
                    "echo x >l; ln l m; tar -cPf a.tar --transform 'flags=rh;s,^l$,{at}/file,' l m; echo evil >m; tar -rf a.tar m"
                ),
            ),
        ] {
            let folder =
                who.folder(&format!("b1-{name}"), &[("Dockerfile", "FROM busybox\nADD a.tar /d/\n")]);
            host(&folder, &script);
            // Refused, or taken out within the root; outside nothing may show it.
            who.try_build(&folder, &["."]);
            assert_eq!(facts(&sentinel), before, "{name}");
        }
    }
}

/// Bytes of disk that `folder` takes.
fn disk(folder: &Path) -> u64 {
    let ended = Command::new("du").args(["-s", "-B1"]).arg(folder).output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn b4_holes_take_neither_disk_nor_hours() {
    for who in Who::all("threat B4") {
        let copies = "FROM busybox\nCOPY hole /\nADD a.tar zeros.tgz /d/\nRUN truncate -s 150M /made && \
                      [ $(stat -c %s /hole) = 150000005 ] && [ $(tail -c 5 /hole) = above ] && [ $(stat -c %s /d/hole) = 150000005 ]\n\
                      FROM busybox\nCOPY --from=0 /made /hole /d/zeros /\n";
        let folder = who.folder("b4", &[("Dockerfile", copies)]);
        let make = "truncate -s 150000000 hole; echo above | head -c 5 >>hole; tar -cSf a.tar hole; truncate -s 150M zeros; \
                    tar -czf zeros.tgz zeros; rm zeros";
        host(&folder, make);
        who.build(&folder, &["."]);
        let taken = disk(&who.store());
        assert!(taken < 50 << 20, "{taken} bytes of disk for holes");
        let told = who.call(&folder, &["du"]);
        assert!(!told.stdout.contains("150MB") && !told.stdout.contains("157MB"), "{}", told.stdout);

        for (name, instruction, script, words) in [
            (
                "run",
                "RUN truncate -s 2048G /huge",
                "",
                "huge: with it the layer has more than 1099511627776 bytes",
            ),
            (
                "copy",
                "COPY huge /",
                "truncate -s 2T huge",
                "the files have 2199023255552 bytes, and an image's layer at most 1099511627776",
            ),
            (
                "add",
                "ADD a.tar /",
                "truncate -s 700G x; cp --sparse=always x y; tar -cSf a.tar x y; rm x y",
                "more than 1099511627776 bytes in files",
            ),
        ] {
            let dockerfile = format!("FROM busybox\n{instruction}\n");
            let folder = who.folder(&format!("b4-{name}"), &[("Dockerfile", &dockerfile)]);
            host(&folder, script);
            let ended = who.try_build(&folder, &["."]);
            assert_ne!(ended.status, 0, "{name}");
            ended.says(words);
        }
    }
}

#[test]
fn b8_device_nodes_of_archives_do_not_work() {
    if !is_root_to("make device nodes", "threat B8") {
        return;
    }
    for who in Who::all("threat B8") {
        let dockerfile = "FROM busybox\nADD a.tar /d/\n\
                          RUN for node in zero disk; do head -c 1 /d/$node 2>&1 | grep -q 'Permission denied' || exit 1; done\n";
        let folder = who.folder("b8", &[("Dockerfile", dockerfile)]);
        host(&folder, "mknod zero c 1 5; mknod disk b 254 0; tar -cf a.tar zero disk; rm zero disk");
        let ended = who.try_build(&folder, &["."]);
        match who {
            Who::Root(..) => assert_eq!(ended.status, 0, "{}", ended.stderr),
            Who::User(_) => {
                assert_ne!(ended.status, 0);
                ended.says("zero");
            }
        }
    }
}

#[test]
fn b1_links_of_an_earlier_output_lead_nowhere() {
    for who in Who::all("threat B1") {
        let sentinel = who.folder("b1-victim", &[("file", "untouched")]);
        let before = facts(&sentinel);
        let output = |stage: &str| {
            let text = format!(
                "FROM busybox AS made\nRUN mkdir -p /o && {stage}\nFROM scratch\nCOPY --from=made /o /\n"
            );
            let folder = who.folder("b1-output", &[("Dockerfile", &text)]);
            who.build(&folder, &["-o", "out", "."]);
            folder.join("out")
        };
        output(&format!("ln -s {} /o/d && ln -s {}/file /o/f", sentinel.display(), sentinel.display()));
        let out = output("mkdir /o/d && echo evil >/o/d/file && chmod 777 /o/d && echo evil >/o/f");
        assert_eq!(std::fs::read_to_string(out.join("d/file")).unwrap(), "evil\n");
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "evil\n");
        assert_eq!(facts(&sentinel), before);
    }
}

#[test]
fn b10_a_step_never_changes_the_layers_below() {
    for who in Who::all("threat B10") {
        let base = "FROM busybox\nRUN echo one >/one && ln /one /two && chmod 600 /one\n";
        let folder = who.folder("b10", &[("Dockerfile", base)]);
        who.build(&folder, &["-t", "b10", "."]);
        let layers = who.store().join("layers");
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        let earlier = names();
        let before: Vec<_> = earlier.iter().map(|layer| facts(layer)).collect();
        let more = "FROM b10\nRUN ln /one /three && echo more >>/three && chown 1 /two && touch -t 200001010000 /bin/busybox && rm -rf /home /var\n\
                    RUN cp -al /bin /bin2 && echo x >>/bin2/busybox; true\n";
        let folder = who.folder("b10-more", &[("Dockerfile", more)]);
        who.build(&folder, &["-t", "b10-more", "."]);
        let after: Vec<_> = earlier.iter().map(|layer| facts(layer)).collect();
        assert_eq!(after, before);
        assert!(names().len() > earlier.len());
    }
}
