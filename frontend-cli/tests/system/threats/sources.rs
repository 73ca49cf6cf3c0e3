//! C and D: names, registries, repositories, addresses, contexts. The registry's own tricks are tried in `image`.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::Who;

#[test]
fn c6_d3_only_the_web_and_git_are_fetched_from() {
    for who in Who::all("threats C6, D3") {
        // Paths of the context to everybody, where there are none of these names.
        for source in [
            "file:///SENTINEL/file",
            "gopher://127.0.0.1/x",
            "file:///SENTINEL/repository.git",
            "ext::sh%20-c%20touch%20SENTINEL/new.git",
        ] {
            who.refuses("c6", &format!("FROM scratch\nADD {source} /x\n"), ": not found");
        }
    }
}

#[test]
fn c8_names_in_an_image_are_not_given_to_it() {
    for who in Who::all("threat C8") {
        let made = who.folder("c8-made", &[("Dockerfile", "FROM busybox\nRUN echo evil >/evil\n")]);
        // A layout whose annotations say that it is `victim`.
        who.build(&made, &["-t", "victim:latest", "-o", "type=oci,dest=layout,tar=false", "."]);
        let uses = who.folder("c8-uses", &[("Dockerfile", "FROM evil\n")]);
        who.call(&uses, &["rmi", "-f", "victim:latest"]);
        let context = format!("evil=oci-layout://{}:latest", made.join("layout").display());
        who.build(&uses, &["-t", "mine", "--build-context", &context, "."]);
        let images = who.call(&uses, &["images"]);
        images.says("mine");
        assert!(!images.stdout.contains("victim"), "{}", images.stdout);
    }
}

#[test]
fn d1_no_part_of_a_repositorys_address_is_an_option() {
    for who in Who::all("threat D1") {
        let (no_name, option) =
            ("is no name of a branch, tag or commit", "a part of the address starts with `-`");
        for (address, words) in [
            ("git://127.0.0.1:1/r.git#--upload-pack=touch${IFS}SENTINEL/new", no_name),
            ("git@-oProxyCommand=touch:r.git", ": not found"),
            ("ssh://-oProxyCommand=touch/r.git", option),
            ("https://127.0.0.1:1/r.git#-c", no_name),
            ("https://127.0.0.1:1/r.git#a..b", no_name),
        ] {
            who.refuses("d1", &format!("FROM scratch\nADD {address} /x\n"), words);
        }
    }
}

#[test]
fn d4_credentials_of_an_address_are_shown_nowhere() {
    for who in Who::all("threat D4") {
        for address in [
            "https://user:canary-71ab@127.0.0.1:1/r.git",
            "http://user:canary-71ab@127.0.0.1:1/file",
            "https://canary-71ab@127.0.0.1:1/r.git",
        ] {
            let folder = who.folder("d4", &[("Dockerfile", &format!("FROM scratch\nADD {address} /x\n"))]);
            let ended = who.try_build(&folder, &["-D", "."]);
            assert_ne!(ended.status, 0);
            // The user's own line is quoted with the error, in which the address is the user's.
            let told = ended.stderr.lines().filter(|line| !line.starts_with("2 |"));
            let shown: Vec<_> = told.filter(|line| line.contains("canary-71ab")).collect();
            assert!(shown.is_empty(), "{address}: {shown:?}");
            let found = std::process::Command::new("grep")
                .args(["-rlaF", "canary-71ab"])
                .arg(who.store())
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "");
        }
    }
}

#[test]
fn d6_links_of_a_context_lead_nowhere_outside() {
    for who in Who::all("threat D6") {
        let outside = who.folder("d6-outside", &[("file", "untouched"), ("Dockerfile", "FROM scratch\n")]);
        let attempt = |name: &str, dockerfile: &str, make: &dyn Fn(&Path)| {
            let folder = who.folder(name, &[("Dockerfile", dockerfile)]);
            make(&folder);
            let ended = who.try_build(&folder, &["-o", "out", "."]);
            let read = std::process::Command::new("grep")
                .args(["-rls", "untouched"])
                .arg(folder.join("out"))
                .output();
            assert!(read.unwrap().stdout.is_empty(), "{name} has read it");
            ended
        };
        let file = attempt("d6-file", "FROM scratch\nCOPY leak /leak\n", &|folder| {
            symlink(outside.join("file"), folder.join("leak")).unwrap();
        });
        file.says("error: /leak: not found");
        let parent = attempt("d6-parent", "FROM scratch\nCOPY leak/file /leak\n", &|folder| {
            symlink(&outside, folder.join("leak")).unwrap();
        });
        parent.says("error: /leak/file: not found");
        let climbs = attempt("d6-climbs", "FROM scratch\nCOPY ../d6-outside/file /leak\n", &|_| {});
        climbs.says("error: /d6-outside/file: not found");
        // Nor do the files that kiln itself reads.
        let own = attempt("d6-own", "FROM scratch\nCOPY file /\n", &|folder| {
            std::fs::write(folder.join("file"), "").unwrap();
            symlink(outside.join("file"), folder.join(".dockerignore")).unwrap();
        });
        assert!(!own.stderr.contains("untouched"), "{}", own.stderr);
        let named = attempt("d6-named", "", &|folder| {
            std::fs::remove_file(folder.join("Dockerfile")).unwrap();
            symlink(outside.join("file"), folder.join("Dockerfile")).unwrap();
        });
        named.says("failed to read dockerfile: open Dockerfile: no such file or directory");
        // Inside of a directory it stays what it is.
        let kept = attempt("d6-kept", "FROM scratch\nCOPY . /all\n", &|folder| {
            symlink(outside.join("file"), folder.join("leak")).unwrap();
        });
        assert_eq!(kept.status, 0, "{}", kept.stderr);
    }
}

#[test]
fn d6_a_template_includes_nothing_from_outside() {
    for who in Who::all("threat D6") {
        let outside = who.folder("d6-secret", &[("file", "RUN untouched\n")]);
        let path = outside.join("file");
        let link = |folder: &Path| symlink(&path, folder.join("link")).unwrap();
        for (name, include) in [
            ("absolute", format!("#include \"{}\"", path.display())),
            ("climbs", "#include \"../d6-secret/file\"".to_owned()),
            ("link", "#include \"link\"".to_owned()),
            ("import", format!("#define PLACE <{}>\n#include PLACE", path.display())),
            ("nested", "#include \"more\"".to_owned()),
        ] {
            let more = format!("#include \"{}\"\n", path.display());
            let text = format!("FROM busybox\n{include}\n");
            let folder = who.folder(&format!("d6-template-{name}"), &[("x.in", &text), ("more", &more)]);
            if name == "link" {
                link(&folder);
            }
            let ended = who.try_build(&folder, &["-f", "x.in", "."]);
            assert_ne!(ended.status, 0, "{name}");
            ended.says("which is neither beside it nor in the context");
            assert!(!ended.stderr.contains("untouched"), "{name}: {}", ended.stderr);
            // What the command line names is the user's own wish.
            let flag = format!("--cpp-flag=-I{}", outside.display());
            who.try_build(&folder, &["-f", "x.in", &flag, "."]).says("untouched");
        }
    }
}

#[test]
fn d7_pipes_and_sockets_of_a_context_are_not_waited_for() {
    for who in Who::all("threat D7") {
        let folder = who.folder("d7", &[("Dockerfile", "FROM scratch\nCOPY . /all\n"), ("file", "x")]);
        let made = std::process::Command::new("mkfifo")
            .args(["pipe", ".dockerignore"])
            .current_dir(&folder)
            .status();
        assert!(made.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
        // A build that opened one of them would not end.
        let refused = who.try_build(&folder, &["."]);
        assert_ne!(refused.status, 0);
        refused.says(".dockerignore is no regular file");
        std::fs::remove_file(folder.join(".dockerignore")).unwrap();
        who.build(&folder, &["-o", "out", "."]);
        assert!(folder.join("out/all/pipe").exists() && !folder.join("out/all/socket").exists());
    }
}
