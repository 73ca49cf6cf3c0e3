//! Where contexts and Dockerfiles come from.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use kiln::{Build, BuildResult, ContextSource, DockerfileSource, Error, ErrorKind};

use crate::servers::{GitServer, Web};
use crate::support::{Bench, Image};

const DOCKERFILE: &str = "FROM scratch\nCOPY a /a\n";

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o640);
        header.set_cksum();
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn stream(bytes: Vec<u8>) -> ContextSource {
    ContextSource::Stream(Arc::new(Mutex::new(Cursor::new(bytes))))
}

fn build(bench: &Bench, context: ContextSource) -> Build {
    Build::new(context).root(bench.dir().join("store"))
}

fn image(bench: &Bench, build: Build) -> Result<(BuildResult, Image), Error> {
    bench.image_of(build)
}

/// Compressed by the host's program; `None`, with a word, if it has none.
fn compressed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, bytes).unwrap();
    match std::process::Command::new(program).arg("-c").arg(&file).output() {
        Ok(output) if output.status.success() => Some(output.stdout),
        _ => {
            eprintln!("skipped: no {program}");
            None
        }
    }
}

#[test]
fn a_tar_on_standard_input_is_the_context_however_it_is_compressed() {
    let plain = tar(&[("Dockerfile", DOCKERFILE), ("a", "A"), (".dockerignore", "a\n")]);
    let others = ["gzip", "bzip2", "xz", "zstd"].map(|program| compressed(program, &plain));
    for bytes in others.into_iter().flatten().chain([plain]) {
        let bench = Bench::new();
        let (_, image) = image(&bench, build(&bench, stream(bytes))).unwrap();
        // The ignore file of such a context is a file like any other.
        assert_eq!(image.top(), "-0640 0:0 a\n");
    }
}

#[test]
fn a_dockerfile_on_standard_input_has_an_empty_context() {
    let bench = Bench::new();
    let (_, made) = image(&bench, build(&bench, stream(b"FROM scratch\nWORKDIR /w\n".to_vec()))).unwrap();
    assert_eq!(made.top(), "d0755 0:0 w\n");
    let error = image(&bench, build(&bench, stream(DOCKERFILE.into()))).map(drop).unwrap_err();
    assert!(error.message.contains("/a: not found"), "{error}");
    let ambiguous = build(&bench, stream(DOCKERFILE.into())).file("Other");
    let error = image(&bench, ambiguous).map(drop).unwrap_err();
    assert!(error.message.starts_with("ambiguous Dockerfile source"), "{error}");
}

#[test]
fn the_dockerfile_may_be_spelled_in_lower_case_and_be_ignored() {
    let bench = Bench::new();
    bench.write("sub/dockerfile", DOCKERFILE).write("a", "A").write(".dockerignore", "sub\n");
    let directory = || build(&bench, ContextSource::Directory(bench.context()));
    assert!(image(&bench, directory().file(bench.context().join("sub/Dockerfile"))).is_ok());
    let error = image(&bench, directory().file(bench.context().join("sub/Dockerfil"))).map(drop).unwrap_err();
    assert!(error.message.contains("no such file"), "{error}");
    bench.write("dockerfile", DOCKERFILE);
    assert!(image(&bench, directory()).is_ok());
}

#[test]
fn links_of_a_context_lead_nowhere_outside() {
    let bench = Bench::new();
    std::fs::write(bench.dir().join("secret"), "FROM scratch\nCOPY a /from-outside\n").unwrap();
    std::os::unix::fs::symlink("../secret", bench.context().join("Dockerfile")).unwrap();
    bench.write("a", "A");
    let build = build(&bench, ContextSource::Directory(bench.context()));
    assert!(image(&bench, build).is_err());
}

#[test]
fn a_dockerfile_that_is_a_link_in_an_archive_is_followed_within_it() {
    let bench = Bench::new();
    let sentinel = bench.dir().join("sentinel");
    std::fs::write(&sentinel, "FROM scratch\nWORKDIR /outside\n").unwrap();
    let with_link = |target: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, "Dockerfile", target).unwrap();
        let text = b"FROM scratch\nWORKDIR /inside\n";
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "real", &text[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let (_, made) = image(&bench, build(&bench, stream(with_link("/real")))).unwrap();
    assert_eq!(made.top(), "d0755 0:0 inside\n");
    for target in [sentinel.to_str().unwrap(), "../../../../../../../../../../etc/passwd"] {
        let error = image(&bench, build(&bench, stream(with_link(target)))).map(drop).unwrap_err();
        assert!(error.message.contains("no such file"), "{target}: {error}");
    }
}

#[test]
fn a_context_that_is_not_there_says_so() {
    let bench = Bench::new();
    let error = build(&bench, ContextSource::Directory("/no/such/dir".into())).run().unwrap_err();
    assert_eq!(error.message, "unable to prepare context: path \"/no/such/dir\" not found");
    let error = build(&bench, ContextSource::Url("ftp://h/x".into())).run().unwrap_err();
    assert_eq!(error.message, "unable to prepare context: \"ftp://h/x\" is no address that can be fetched");
    for (value, message) in [
        ("file:///etc", "unsupported context source file for c"),
        ("/no/such/dir", "build context c: path \"/no/such/dir\" not found"),
    ] {
        let build = build(&bench, ContextSource::Empty).dockerfile(DockerfileSource::Text("FROM c\n".into()));
        let error = build.named_context("c", value).run().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::User, message));
        assert!(error.hint.unwrap().contains("docker-image://"));
    }
}

#[test]
fn an_archive_by_http_is_the_context_and_is_not_downloaded_twice() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/c.tar", tar(&[("Dockerfile", DOCKERFILE), ("other", DOCKERFILE), ("a", "A")]));
    let url = || ContextSource::Url(web.url("/c.tar"));
    image(&bench, build(&bench, url())).unwrap();
    image(&bench, build(&bench, url()).file("other")).unwrap();
    assert_eq!(web.seen(), ["/c.tar 200", "/c.tar 304"]);
    // An absolute path is the host's (FEATURES CX8).
    let local = bench.dir().join("Local");
    std::fs::write(&local, "FROM scratch\nCOPY a /local\n").unwrap();
    let (_, made) = image(&bench, build(&bench, url()).file(local)).unwrap();
    assert_eq!(made.top(), "-0640 0:0 local\n");
}

#[test]
fn a_file_by_http_is_the_dockerfile_and_all_there_is_of_the_context() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/D", "FROM scratch\nCOPY . /x/\n");
    let (_, made) = image(&bench, build(&bench, ContextSource::Url(web.url("/D")))).unwrap();
    assert_eq!(made.top(), "d0755 0:0 x\n-0600 0:0 x/context\n");
}

#[test]
fn a_dockerfile_by_http_has_the_given_context() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/D", DOCKERFILE);
    bench.write("a", "A");
    let build = build(&bench, ContextSource::Directory(bench.context()));
    let (_, made) = image(&bench, build.dockerfile(DockerfileSource::Url(web.url("/D")))).unwrap();
    assert_eq!(made.text("a"), "A");
}

#[test]
fn a_named_file_by_http_is_called_context_and_stays_packed() {
    let (bench, web) = (Bench::new(), Web::start());
    web.put("/c.tar", tar(&[("a", "A")]));
    let text = "FROM scratch\nCOPY --from=c . /x/\n";
    let build = build(&bench, ContextSource::Empty).dockerfile(DockerfileSource::Text(text.into()));
    let (_, made) = image(&bench, build.named_context("c", web.url("/c.tar"))).unwrap();
    assert_eq!(made.top(), "d0755 0:0 x\n-0600 0:0 x/context\n");
}

#[test]
fn a_named_directory_has_an_ignore_file_of_its_own() {
    let bench = Bench::new();
    bench.write("a", "A").write(".dockerignore", "*\n");
    let other = bench.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join(".dockerignore"), "no\n").unwrap();
    std::fs::write(other.join("yes"), "").unwrap();
    std::fs::write(other.join("no"), "").unwrap();
    let build = bench.build("FROM scratch\nCOPY --from=other . /\n");
    let (_, made) = image(&bench, build.named_context("other", other.to_str().unwrap())).unwrap();
    let paths: Vec<&str> = made.layers.last().unwrap().keys().map(String::as_str).collect();
    assert_eq!(paths, [".dockerignore", "yes"]);
}

#[test]
fn a_layout_is_a_named_context_by_tag_and_by_digest() {
    use kiln::OutputSpec;
    let bench = Bench::new();
    bench.write("a", "A");
    let layout = bench.dir().join("layout");
    let output = OutputSpec::Oci { dest: Some(layout.clone()), tar: false, options: Default::default() };
    let made = bench.build("FROM scratch\nCOPY a /a\n").tag("x:v1").output(output).run().unwrap();
    let digest = made.manifest_digest.unwrap();
    for which in [":v1".to_owned(), format!("@{digest}")] {
        let value = format!("oci-layout://{}{which}", layout.display());
        let build = bench.build("FROM base\nCOPY --from=base /a /b\n").named_context("base", value);
        let (_, made) = image(&bench, build).unwrap();
        assert_eq!(made.text("b"), "A", "{which}");
    }
    let value = format!("oci-layout://{}@sha256:{}", layout.display(), "0".repeat(64));
    let error = bench.build("FROM base\n").named_context("base", value).run().unwrap_err();
    assert!(error.message.ends_with(&format!("blob sha256:{} is missing", "0".repeat(64))), "{error:?}");
}

#[test]
fn a_repository_is_the_context_whole() {
    let Some(server) = GitServer::start() else { return };
    let (bench, repository) = (Bench::new(), server.repository("r.git"));
    repository.write("Dockerfile", "FROM scratch\nCOPY . /\n").write("a", "A").write(".dockerignore", "a\n");
    repository.write("sub/Dockerfile", "FROM scratch\nCOPY . /\n").write("sub/b", "B");
    repository.commit();
    let paths = |url: &str| {
        let (_, made) = image(&bench, build(&bench, ContextSource::Url(url.to_owned()))).unwrap();
        made.layers.last().unwrap().keys().cloned().collect::<Vec<String>>()
    };
    // Neither `.git` nor what an ignore file would hide is special (FEATURES CX5, CX19).
    assert_eq!(
        paths(&repository.url),
        [".dockerignore", "Dockerfile", "a", "sub", "sub/Dockerfile", "sub/b"]
    );
    for url in ["#:sub", "#main:sub", "?branch=main&subdir=sub"] {
        assert_eq!(paths(&format!("{}{url}", repository.url)), ["Dockerfile", "b"], "{url}");
    }
    let kept = build(&bench, ContextSource::Url(repository.url.clone()));
    let (_, made) = image(&bench, kept.arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1")).unwrap();
    assert!(made.layers.last().unwrap().contains_key(".git/HEAD"));
    let named = bench.build("FROM scratch\nCOPY --from=r b /b\n");
    let (_, made) = image(&bench, named.named_context("r", format!("{}#main:sub", repository.url))).unwrap();
    assert_eq!(made.text("b"), "B");
}

#[test]
fn a_frontend_that_kiln_has_not_is_refused_where_it_is_named() {
    let bench = Bench::new();
    let error = bench.build("# syntax=127.0.0.1:5000/other:1\nNOT A DOCKERFILE\n").run().unwrap_err();
    assert_eq!(error.kind, ErrorKind::User);
    assert!(error.message.contains("127.0.0.1:5000/other:1"), "{error}");
    assert_eq!(error.labels[0].span.line, 1);
    let official = bench.build("# syntax=docker/dockerfile:1.7-labs\nFROM scratch\nWORKDIR /w\n");
    assert!(image(&bench, official).is_ok());
}
