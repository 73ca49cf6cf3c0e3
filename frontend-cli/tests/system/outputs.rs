//! What `--output` and the flags beside it write, and what the commands on images say of it.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_fixtures::Context;
use serde_json::Value;

use crate::kiln::Kiln;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A document of a layout directory.
fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    json(&layout.join("blobs/sha256").join(digest))
}

fn context() -> Context {
    Context::with_dockerfile("FROM busybox\nRUN echo made > /made\nLABEL a=b\nCMD [\"cat\", \"/made\"]\n")
}

#[test]
fn annotations_media_types_and_compressions_are_as_asked_for() {
    let Some(kiln) = Kiln::new("output keys") else { return };
    let out = tempfile::tempdir().unwrap();
    let context = context();
    let layout = |name: &str, keys: &str, flags: &[&str]| {
        let dest = out.path().join(name);
        let output = format!("type=oci,tar=false,dest={}{keys}", dest.display());
        kiln.build(context.path(), &[flags, &["-o", &output, "."]].concat());
        let index = json(&dest.join("index.json"));
        let manifest = blob(&dest, &index["manifests"][0]);
        (dest, index, manifest)
    };
    let flags = ["--annotation", "manifest,manifest-descriptor:k=v"];
    let (_, index, manifest) = layout("oci", ",annotation.other=x", &flags);
    assert_eq!(index["manifests"][0]["annotations"]["k"], "v");
    assert_eq!(
        (&manifest["annotations"]["k"], &manifest["annotations"]["other"]),
        (&"v".into(), &"x".into())
    );

    let (_, _, manifest) = layout("docker", ",oci-mediatypes=false", &[]);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");

    let (dest, _, manifest) = layout("estargz", ",compression=estargz,force-compression", &[]);
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "{layer}");
    }
    let config = blob(&dest, &manifest["config"]);
    let last = manifest["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap();
    let gunzipped = Command::new("sh")
        .args(["-c", &format!("gzip -dc {}/blobs/sha256/{} | sha256sum", dest.display(), &last[7..])])
        .output()
        .unwrap();
    let diff_id =
        config["rootfs"]["diff_ids"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    assert!(String::from_utf8_lossy(&gunzipped.stdout).starts_with(&diff_id[7..]));
    // What the store remembers of it is the same.
    let (_, _, again) = layout("again", ",compression=estargz,force-compression", &[]);
    assert_eq!(manifest, again);

    let (dest, _, manifest) = layout("zstd", ",compression=zstd,compression-level=19,force-compression", &[]);
    assert!(manifest["layers"][0]["mediaType"].as_str().unwrap().ends_with("+zstd"));
    let copied = Command::new("skopeo")
        .args(["copy", "-q", &format!("oci:{}", dest.display())])
        .arg(format!("dir:{}", out.path().join("copied").display()))
        .status();
    assert!(copied.unwrap().success());

    let refused = kiln
        .call(context.path(), &["build", "--annotation", "index:k=v", "-o", "type=oci,dest=/dev/null", "."]);
    assert_ne!(refused.status, 0);
    refused.says("index annotations not supported for single platform export");
}

#[test]
fn an_image_says_no_more_of_itself_than_asked_for() {
    let Some(kiln) = Kiln::new("trimmed images") else { return };
    let out = tempfile::tempdir().unwrap();
    let context = Context::with_dockerfile(
        "FROM busybox AS base\nLABEL old=1\nENV KEEP=1 DROP=2\n\
         FROM base\nRUN echo $DROP >/made\nLABEL new=1 gone=2\n",
    );
    let layout = out.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let trim = ["--unsetlabel=gone", "--unsetenv=DROP", "--inherit-labels=false", "--omit-history=true"];
    let notes = ["--annotation=a=1", "--annotation=b=2", "--unsetannotation=b", "--identity-label=false"];
    let iid = out.path().join("iid");
    let file = format!("--iidfile-raw={}", iid.display());
    let ended = kiln.build(
        context.path(),
        &[&trim[..], &notes, &["-o", "type=image", "-o", &output, &file, "-t", "t", "."]].concat(),
    );
    assert!(!ended.stderr.contains("ignored"), "{}", ended.stderr);
    let manifest = blob(&layout, &json(&layout.join("index.json"))["manifests"][0]);
    let config = blob(&layout, &manifest["config"]);
    assert_eq!(manifest["annotations"], serde_json::json!({"a": "1"}));
    assert_eq!(config["config"]["Labels"], serde_json::json!({"new": "1"}));
    let env = config["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&"KEEP=1".into()) && !env.iter().any(|pair| pair == "DROP=2"), "{env:?}");
    assert!(config.get("history").is_none_or(|history| history.as_array().unwrap().is_empty()), "{config}");
    assert_eq!(kiln.run(&["t", "cat", "/made"]), "2\n");
    let id = std::fs::read_to_string(&iid).unwrap();
    assert_eq!(format!("sha256:{id}"), manifest["config"]["digest"].as_str().unwrap());
    // As a base it has no history to go on with, and gets entries for its layers.
    let next = Context::with_dockerfile("FROM t\nENV X=1\n");
    kiln.build(next.path(), &["-t", "next", "."]);
    assert_eq!(kiln.ok(Path::new("/"), &["history", "-q", "next"]).stdout.lines().count(), 3);
    kiln.build(next.path(), &["--identity-label", "."]).says("--identity-label is ignored");
}

#[test]
fn buildahs_flags_name_the_form_the_machine_and_variables() {
    let Some(kiln) = Kiln::new("buildah's flags") else { return };
    let out = tempfile::tempdir().unwrap();
    let context = Context::with_dockerfile("FROM scratch\nCOPY Containerfile /\nENV B=$A\n");
    let file = |name: &str| context.path().join(name);
    std::fs::rename(file("Dockerfile"), file("Containerfile")).unwrap();
    let layout = out.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let flags = ["--format=docker", "--arch=arm", "--variant=v7", "--env=A=1", "--jobs=1"];
    kiln.build(context.path(), &[&flags[..], &["-o", &output, "."]].concat());
    let manifest = blob(&layout, &json(&layout.join("index.json"))["manifests"][0]);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let config = blob(&layout, &manifest["config"]);
    assert_eq!((&config["architecture"], &config["variant"]), (&"arm".into(), &"v7".into()));
    let env = config["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&"A=1".into()) && env.contains(&"B=1".into()), "{env:?}");
    // docker's name goes before.
    std::fs::write(file("Dockerfile"), "FROM scratch\nLABEL docker=1\n").unwrap();
    kiln.build(context.path(), &["--format", "docker", "-t", "both", "."]);
    assert!(kiln.ok(Path::new("/"), &["inspect", "both"]).stdout.contains("\"docker\": \"1\""));
    let refused = kiln.call(context.path(), &["build", "--platform=linux/amd64", "--arch=arm", "."]);
    assert_eq!(refused.status, 1);
    refused.says("cannot be used with");
}

#[test]
fn an_epoch_makes_two_builds_the_same_to_the_last_byte() {
    let Some(first) = Kiln::new("reproducible images") else { return };
    let Some(second) = Kiln::new("reproducible images") else { return };
    let out = tempfile::tempdir().unwrap();
    let context = context();
    let metadata = |kiln: &Kiln, name: &str| {
        let file = out.path().join(name);
        let flags = ["--source-date-epoch", "1700000000", "--rewrite-timestamp", "-t", "app"];
        let file_flag = format!("--metadata-file={}", file.display());
        let archive = format!("type=oci,dest={}.tar", file.display());
        kiln.build(
            context.path(),
            &[&flags[..], &[&file_flag, "-o", &archive, "-o", "type=image", "."]].concat(),
        );
        let mut metadata = json(&file);
        // Which of the builds it was.
        assert!(metadata.as_object_mut().unwrap().remove("buildx.build.ref").is_some());
        metadata
    };
    let (one, two) = (metadata(&first, "one"), metadata(&second, "two"));
    assert_eq!(one, two);
    assert_eq!(one["containerimage.descriptor"]["digest"], one["containerimage.digest"]);
    let read = |name: &str| std::fs::read(out.path().join(name)).unwrap();
    assert!(read("one.tar") == read("two.tar"));
    // The store's image is the rewritten one, and it runs.
    let id = first.ok(Path::new("/"), &["inspect", "-f", "{{.Id}}", "app"]).stdout;
    assert_eq!(id.trim(), one["containerimage.config.digest"]);
    assert_eq!(first.run(&["app", "stat", "-c", "%Y", "/made"]), "1700000000\n");
    assert_eq!(first.run(&["app"]), "made\n");
}

#[test]
fn the_metadata_file_tells_what_buildx_does() {
    let Some(kiln) = Kiln::new("metadata file") else { return };
    let context = Context::with_dockerfile(
        "FROM scratch AS none\nLABEL a=b\nFROM busybox as x\nARG A\nRUN --mount=type=secret,id=s true\nMAINTAINER $B\n",
    );
    let build = |more: &[&str], env: &[(&str, &str)]| {
        let file = context.path().join("metadata.json");
        let words = [
            &["build", "--build-arg=A=1", "--metadata-file=metadata.json", "-o", "type=oci,dest=/dev/null"],
            more,
            &["."],
        ];
        let ended = kiln.command(context.path(), &words.concat()).envs(env.iter().copied()).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        json(&file)
    };
    let metadata = build(&[], &[]);
    let made = &metadata["buildx.build.provenance"];
    assert_eq!(made["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(made["invocation"]["parameters"]["args"]["build-arg:A"], "1");
    assert!(made["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/"), "{made}");
    assert!(made.get("metadata").is_none() && made.get("buildConfig").is_none(), "{made}");
    assert!(metadata.get("buildx.build.warnings").is_none());

    let env = [("BUILDX_METADATA_PROVENANCE", "max"), ("BUILDX_METADATA_WARNINGS", "1")];
    let metadata = build(&[], &env);
    let made = &metadata["buildx.build.provenance"];
    assert!(
        made["metadata"]["buildStartedOn"].is_string() && made["buildConfig"]["llbDefinition"].is_array()
    );
    let warnings = metadata["buildx.build.warnings"].as_array().unwrap();
    let text = |value: &serde_json::Value| {
        String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
    };
    let short: Vec<_> = warnings.iter().map(|warning| text(&warning["short"])).collect();
    assert_eq!(short[0], "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)");
    assert_eq!(warnings[0]["range"][0]["start"]["line"], 3);
    assert!(warnings[0]["url"].as_str().unwrap().ends_with("/from-as-casing/"));
    assert!(text(&warnings[0]["sourceInfo"]["data"]).contains("FROM busybox as x"));
    assert!(
        short.iter().any(|text| text.starts_with("MaintainerDeprecated: ") && text.ends_with(" (line 6)"))
    );

    let two = build(&["--platform=linux/amd64,linux/arm64", "--target=none"], &[]);
    assert!(two["buildx.build.provenance/linux/arm64"]["materials"].is_array(), "{two}");
    let none = build(&[], &[("BUILDX_METADATA_PROVENANCE", "disabled")]);
    assert!(none.get("buildx.build.provenance").is_none() && none.get("buildx.build.ref").is_some());
}

#[test]
fn an_image_is_loaded_into_a_daemon_that_listens() {
    let Some(kiln) = Kiln::new("--load") else { return };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let context = context();
    let load = |host: &str| {
        let words = ["build", "--progress=plain", "--load", "-t", "app:1", "."];
        let output = kiln.command(context.path(), &words).env("DOCKER_HOST", host).output().unwrap();
        crate::kiln::Ended::from(output)
    };
    let host = format!("unix://{}", socket.display());
    load(&host).says("start it, or write an archive");
    let listener = UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        // The first one only looks whether anybody is there.
        let _ = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 65536];
        while !request.ends_with(b"\r\n0\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the request ends early");
            request.extend_from_slice(&buffer[..read]);
        }
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        request
    });
    let loaded = load(&host);
    assert_eq!(loaded.status, 0, "{}", loaded.stderr);
    let request = String::from_utf8_lossy(&daemon.join().unwrap()).into_owned();
    assert!(request.starts_with("POST /images/load?quiet=1 HTTP/1.1\r\n"));
    assert!(request.contains("\"RepoTags\":[\"app:1\"]"));
    // And kiln's own commands know it.
    assert_eq!(kiln.run(&["app:1"]), "made\n");
}

#[test]
fn images_and_their_history_are_shown_as_templates_say() {
    let Some(kiln) = Kiln::new("--format") else { return };
    let context = context();
    kiln.build(context.path(), &["-t", "app:1", "-t", "other:2", "."]);
    let says = |words: &[&str]| kiln.ok(Path::new("/"), words).stdout;
    assert_eq!(
        says(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=ap*"]),
        "app:1\n"
    );
    assert_eq!(
        says(&[
            "image",
            "inspect",
            "-f",
            "{{index .Config.Labels \"a\"}} {{join .Config.Cmd \" \"}}",
            "app:1"
        ]),
        "b cat /made\n"
    );
    assert!(says(&["images", "--format", "table {{.Tag}}\\t{{.Size}}"]).starts_with("TAG "));
    assert_eq!(says(&["images", "-q", "--filter", "label=a=c"]), "");
    assert_eq!(says(&["images", "-q", "--filter", "label=a"]).lines().count(), 2);
    assert!(
        says(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "app:1"])
            .contains("RUN /bin/sh -c echo made > /made")
    );
    assert_eq!(says(&["inspect", "--type=image", "--format={{.Os}}", "app:1"]), "linux\n");
    let unknown = kiln.call(Path::new("/"), &["inspect", "nope"]);
    assert_eq!((unknown.status, unknown.stdout.as_str()), (1, "[]\n"));
}

#[test]
fn a_step_that_makes_something_else_the_second_time_is_named_with_its_files() {
    let Some(kiln) = Kiln::new("--verify-reproducible") else { return };
    let same = Context::with_dockerfile("FROM busybox\nRUN echo same > /same\nCOPY Dockerfile /\n");
    let words = ["--verify-reproducible", "-t", "same", "."];
    kiln.build(same.path(), &words).says("reproducible: every step made the same files twice");
    let context = Context::with_dockerfile(
        "FROM busybox\nRUN mkdir /d && cat /proc/sys/kernel/random/uuid > /d/random && echo x > /d/same\n\
         RUN echo below > /below\n",
    );
    kiln.build(context.path(), &["-t", "first", "."]);
    let made = kiln.run(&["first", "cat", "/d/random"]);
    let mut line = vec!["build", "--progress=plain"];
    line.extend(words);
    let ended = kiln.call(context.path(), &line);
    assert_eq!(ended.status, 1);
    let report = ended.stderr.split_once("not reproducible:\n").unwrap().1;
    assert!(report.contains("RUN mkdir /d"), "{report}");
    assert!(report.contains("    /d/random: contents\n"), "{report}");
    assert!(!report.contains("    /d/same") && !report.contains("/below"), "{report}");
    // What was recorded is as it was.
    assert_eq!(kiln.run(&["same", "cat", "/d/random"]), made);
    let again = kiln.build(context.path(), &["-t", "third", "."]);
    assert_eq!(again.steps(), (0, 2));
}
