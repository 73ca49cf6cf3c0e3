//! ADD of what is fetched.

use kiln::{Error, ErrorKind, SecretSource};

use crate::servers::{GitServer, Web};
use crate::support::{Bench, Image};

fn add(bench: &Bench, arguments: &str) -> Result<Image, Error> {
    bench.image(&format!("FROM scratch\nADD {arguments}\n")).map(|(_, image)| image)
}

#[test]
fn an_unchanged_file_is_asked_for_and_not_downloaded_again() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/f.txt", "one");
    let line = format!("{} /d/", web.url("/f.txt"));
    let first = add(&bench, &line).unwrap();
    assert_eq!(first.top(), "d0755 0:0 d\n-0600 0:0 d/f.txt\n");
    add(&bench, &line).unwrap();
    assert_eq!(web.seen(), ["/f.txt 200", "/f.txt 304"]);
    web.put("/f.txt", "two");
    assert_eq!(add(&bench, &line).unwrap().text("d/f.txt"), "two");
    add(&bench, &line).unwrap();
    assert_eq!(web.seen(), ["/f.txt 200", "/f.txt 304"]);
}

#[test]
fn a_file_with_a_checksum_is_asked_for_once() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/f", "one");
    let line = format!("--checksum={} {} /", kiln::Digest::of(b"one"), web.url("/f"));
    add(&bench, &line).unwrap();
    add(&bench, &line).unwrap();
    assert_eq!(web.seen(), ["/f 200"]);
    let other = format!("--checksum={} {} /", kiln::Digest::of(b"two"), web.url("/f"));
    let error = add(&bench, &other).map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::User);
    assert!(error.message.contains("digest mismatch"), "{error}");
}

#[test]
fn a_secret_of_the_hosts_name_goes_with_the_request_and_nowhere_else() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/f", "one");
    let dockerfile = format!("FROM scratch\nADD {} /\n", web.url("/f"));
    let build = bench.build(&dockerfile);
    let secret = SecretSource::Value(b"CANARY\n".to_vec());
    bench.image_of(build.secret("HTTP_AUTH_TOKEN_127.0.0.1", secret)).unwrap();
    assert_eq!(web.seen(), ["/f 200 Bearer CANARY"]);
    assert!(!format!("{:?}", bench.events()).contains("CANARY"));
}

#[test]
fn a_password_in_an_address_is_sent_and_never_shown() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/f", "one");
    let url = web.url("/f").replace("http://", "http://user:CANARY@");
    let image = add(&bench, &format!("{url} /")).unwrap();
    assert_eq!(web.seen(), ["/f 200 Basic dXNlcjpDQU5BUlk="]);
    let said = format!("{:?}{}", bench.events(), serde_json::to_string(&image.config).unwrap());
    assert!(!said.contains("CANARY"), "{said}");
    let git = web.url("/r.git").replace("http://", "http://user:CANARY@");
    let error = add(&bench, &format!("{git} /")).map(drop).unwrap_err();
    let said = format!("{:?}{error:?}", bench.events());
    assert!(!said.contains("CANARY"), "{said}");
    // git asks at first without, then with what it was given, or at once.
    assert!(web.seen().iter().all(|line| line.contains("404")));
}

#[test]
fn a_git_tree_has_plain_modes_and_no_git_dir() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("run", "#!/bin/sh\n").write("d/f", "one");
    std::os::unix::fs::symlink("run", repository.path().join("link")).unwrap();
    repository.git(&["add", "run"]);
    repository.git(&["update-index", "--chmod=+x", "run"]);
    repository.git(&["add", "d", "link"]);
    repository.git(&["commit", "--quiet", "-m", "x"]);
    let image = add(&bench, &format!("{} /r/", repository.url)).unwrap();
    assert_eq!(
        image.top(),
        "d0755 0:0 r\nd0755 0:0 r/d\n-0644 0:0 r/d/f\nl0777 0:0 -> run r/link\n-0755 0:0 r/run\n"
    );
}

#[test]
fn chmod_of_a_git_tree_holds_for_the_directory_it_becomes() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("f", "one").commit();
    for (arguments, expected) in [
        ("--chmod=u=rwX,go= URL /r", "d0700 0:0 r\n-0600 0:0 r/f\n"),
        ("--chmod=1750 URL /r", "d1750 0:0 r\n-1750 0:0 r/f\n"),
        ("--chmod=go= --chown=3:4 URL /a/r", "d0755 3:4 a\nd0700 3:4 a/r\n-0600 3:4 a/r/f\n"),
        // What a slash names is made before anything is copied.
        ("--chmod=go= URL /r/", "d0755 0:0 r\n-0600 0:0 r/f\n"),
    ] {
        let image = add(&bench, &arguments.replace("URL", &repository.url)).unwrap();
        assert_eq!(image.top(), expected, "{arguments}");
    }
}

#[test]
fn a_reference_is_a_branch_a_tag_or_a_commit() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("f", "one");
    let first = repository.commit();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    repository.write("f", "two");
    let second = repository.commit();
    repository.git(&["branch", "side", &first]);
    let url = &repository.url;
    for (fragment, text) in [
        ("", "two"),
        ("#main", "two"),
        ("#v1", "one"),
        ("#refs/tags/v1", "one"),
        ("#side", "one"),
        (&format!("#{first}"), "one"),
        ("?tag=v1", "one"),
        ("?branch=side", "one"),
        (&format!("?branch=main&commit={second}"), "two"),
        (&format!("?tag=v1&commit={first}"), "one"),
        (&format!("?branch=main&fetch-by-commit=1&commit={first}"), "one"),
    ] {
        assert_eq!(add(&bench, &format!("{url}{fragment} /")).unwrap().text("f"), text, "{fragment}");
    }
    assert_eq!(add(&bench, &format!("--checksum={} {url}#v1 /", &first[..12])).unwrap().text("f"), "one");
    let error = add(&bench, &format!("--checksum={first} {url}#main /")).map(drop).unwrap_err();
    assert_eq!(error.message, format!("{url}: expected checksum to match {first}, got {second}"));
    let error = add(&bench, &format!("{url}#none /")).map(drop).unwrap_err();
    assert_eq!((error.kind, error.message), (ErrorKind::User, format!("{url} has no branch or tag `none`")));
}

#[test]
fn a_commit_that_the_store_has_is_fetched_from_nowhere() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("f", "one");
    let line = format!("{}#{} /", repository.url, repository.commit());
    add(&bench, &line).unwrap();
    drop(server);
    assert_eq!(add(&bench, &line).unwrap().text("f"), "one");
    assert!(add(&bench, &format!("{} /", repository.url)).is_err());
}

#[test]
fn the_git_dir_is_kept_when_asked_for() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("f", "one");
    let commit = repository.commit();
    let image = add(&bench, &format!("--keep-git-dir {}#main /", repository.url)).unwrap();
    assert_eq!(image.text(".git/HEAD").trim(), commit);
    assert_eq!(image.text(".git/refs/heads/main").trim(), commit);
    let unwanted = |path: &&String| {
        [".git/hooks/", ".git/logs", ".git/FETCH_HEAD"].iter().any(|bad| path.starts_with(bad))
    };
    assert_eq!(image.layers[0].keys().find(unwanted), None);
    let only = |path: &&String| path.starts_with(".git/refs/") && path.ends_with("in");
    assert_eq!(image.layers[0].keys().filter(only).collect::<Vec<_>>(), [".git/refs/heads/main"]);
    // Fetched by its commit, it has the name that was given to it.
    let image = add(
        &bench,
        &format!("{}?keep-git-dir=1&ref=other&commit={commit}&fetch-by-commit=1 /", repository.url),
    );
    assert_eq!(image.unwrap().text(".git/refs/heads/other").trim(), commit);
    let clash = format!("--keep-git-dir=false {}?keep-git-dir=1 /", repository.url);
    let error = add(&bench, &clash).map(drop).unwrap_err();
    assert!(error.message.contains("inconsistent keep-git-dir"), "{error}");
}

#[test]
fn submodules_are_checked_out_unless_told_not_to() {
    let Some(server) = GitServer::start() else { return };
    let (bench, inner, outer) =
        (Bench::new(), server.repository("inner.git"), server.repository("outer.git"));
    inner.write("f", "inner").commit();
    // A relative address is relative to the repository's own.
    outer.git(&["submodule", "--quiet", "add", &inner.url, "in"]);
    outer.git(&["config", "--file", ".gitmodules", "submodule.in.url", "../inner.git"]);
    outer.commit();
    let image = add(&bench, &format!("{} /", outer.url)).unwrap();
    assert_eq!(image.text("in/f"), "inner");
    assert!(!image.layers[0].contains_key("in/.git"));
    let image = add(&bench, &format!("{}?submodules=false /", outer.url)).unwrap();
    assert!(!image.layers[0].contains_key("in/f"));
}

#[test]
fn a_submodule_cannot_name_a_place_on_the_host() {
    let Some(server) = GitServer::start() else { return };
    let (bench, inner, outer) =
        (Bench::new(), server.repository("inner.git"), server.repository("outer.git"));
    inner.write("f", "inner").commit();
    outer.git(&["submodule", "--quiet", "add", &inner.url, "in"]);
    let sentinel = bench.dir().join("sentinel");
    let host = inner.path().to_str().unwrap().to_owned();
    for url in [host.clone(), format!("file://{host}"), format!("ext::touch {}", sentinel.display())] {
        outer.git(&["config", "--file", ".gitmodules", "submodule.in.url", &url]);
        outer.git(&["config", "--file", ".gitmodules", "submodule.in.update", "merge"]);
        outer.commit();
        let error = add(&bench, &format!("{} /", outer.url)).map(drop).unwrap_err();
        assert!(error.message.contains("submodule"), "{url}: {error}");
    }
    assert!(!sentinel.exists());
}

#[test]
fn a_directory_behind_a_link_of_the_repositorys_is_refused() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    std::os::unix::fs::symlink("/", repository.path().join("out")).unwrap();
    repository.commit();
    for subdir in ["out", "out/etc"] {
        let error = add(&bench, &format!("{}#main:{subdir} /", repository.url)).map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::User);
        assert!(error.message.ends_with("is, or is behind, a symbolic link"), "{error}");
    }
    // `..` stays within.
    assert!(add(&bench, &format!("{}#main:../../ /", repository.url)).is_ok());
}

#[test]
fn nothing_of_a_repository_or_of_the_host_is_run() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    let sentinel = bench.dir().join("sentinel");
    repository.write(".gitattributes", "* filter=evil\n").write("f", "one");
    repository.write(".gitconfig", &format!("[filter \"evil\"]\n smudge = touch {}\n", sentinel.display()));
    repository.commit();
    assert_eq!(add(&bench, &format!("{} /", repository.url)).unwrap().text("f"), "one");
    for fragment in ["#--upload-pack=touch${IFS}x", "?ref=--upload-pack%3dx", "#a%0ab"] {
        let error = add(&bench, &format!("\"{}{fragment}\" /", repository.url)).map(drop);
        assert!(error.is_err(), "{fragment}");
    }
    assert!(!sentinel.exists());
}

#[test]
fn a_token_goes_to_the_repositorys_server_that_may_be_one_of_plain_files() {
    let Some(server) = GitServer::start() else { return };
    let (bench, web, repository) = (Bench::new(), Web::start(), server.repository("r.git"));
    repository.write("f", "one").commit();
    repository.write("f", "two").commit();
    repository.git(&["update-server-info"]);
    web.put_dir("/r.git", &repository.path().join(".git"));
    for reference in ["", "#main"] {
        let bench = Bench::new();
        let build = bench.build(&format!("FROM scratch\nADD {}{reference} /\n", web.url("/r.git")));
        let (_, image) =
            bench.image_of(build.secret("GIT_AUTH_TOKEN", SecretSource::Value(b"CANARY".to_vec()))).unwrap();
        assert_eq!(image.text("f"), "two");
        let seen = web.seen();
        assert!(seen.iter().all(|line| line.ends_with(" Basic eC1hY2Nlc3MtdG9rZW46Q0FOQVJZ")), "{seen:?}");
    }
    assert!(!format!("{:?}", bench.events()).contains("CANARY"));
}

#[test]
fn a_build_that_is_cancelled_does_not_wait_for_git() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://127.0.0.1:{}/r.git", listener.local_addr().unwrap().port());
    let bench = Bench::new();
    let build = bench.build(&format!("FROM scratch\nADD {url} /\n"));
    let cancel = build.cancel_handle();
    let server = std::thread::spawn(move || {
        // It never answers, and hangs up only when git does.
        let (mut stream, _) = listener.accept().unwrap();
        cancel.cancel();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let error = build.run().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Canceled);
    server.join().unwrap();
}

#[test]
fn times_are_the_commits_when_asked_for() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("d/f", "one");
    repository.commit();
    let image = add(&bench, &format!("{}?mtime=commit /", repository.url)).unwrap();
    assert_eq!(image.layers[0]["d/f"].modified, 1_000_000_000);
}

#[test]
fn bzip2_and_xz_archives_are_unpacked() {
    for (program, name) in [("bzip2", "a.tar.bz2"), ("xz", "a.tar.xz")] {
        let bench = Bench::new();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, "f", &b"x"[..]).unwrap();
        let path = bench.context().join("a.tar");
        std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
        if !std::process::Command::new(program).arg(&path).status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: no {program}");
            continue;
        }
        assert_eq!(add(&bench, &format!("{name} /d/")).unwrap().text("d/f"), "x");
    }
}
