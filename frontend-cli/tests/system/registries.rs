//! Logins, pushes and pulls with Debian's docker-registry: with TLS, an authority and client certificates of its own, and
//! a password.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use kiln_fixtures::DockerRegistry;

use crate::kiln::{Ended, Kiln};

/// A home whose `certs.d` knows the registry.
struct Home(tempfile::TempDir);

impl Home {
    fn new(registry: &DockerRegistry) -> Self {
        let home = tempfile::tempdir().unwrap();
        if let Some(certificates) = &registry.certificates {
            let folder = home.path().join(".config/containers/certs.d").join(&registry.host);
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["ca.crt", "client.cert", "client.key"] {
                std::fs::copy(certificates.path().join(file), folder.join(file)).unwrap();
            }
        }
        Self(home)
    }

    fn command(&self, kiln: &Kiln, words: &[&str]) -> Command {
        let mut command = kiln.command(self.0.path(), words);
        command.env("HOME", self.0.path());
        for name in [
            "DOCKER_CONFIG",
            "DOCKER_AUTH_CONFIG",
            "REGISTRY_AUTH_FILE",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn call(&self, kiln: &Kiln, words: &[&str]) -> Ended {
        self.command(kiln, words).output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, kiln: &Kiln, words: &[&str]) -> Ended {
        let ended = self.call(kiln, words);
        assert_eq!(ended.status, 0, "kiln {words:?}\n{}\n{}", ended.stdout, ended.stderr);
        ended
    }

    /// With `input` on standard input.
    fn fed(&self, kiln: &Kiln, words: &[&str], input: &str) -> Ended {
        let mut command = self.command(kiln, words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    fn login(&self, kiln: &Kiln, registry: &DockerRegistry) -> Ended {
        self.fed(kiln, &["login", "-u", "me", "--password-stdin", &registry.host], "secret\n")
    }

    fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    /// What is said, without what differs from call to call.
    fn said(&self, ended: &Ended, registry: &DockerRegistry) -> String {
        let text = format!("{}--\n{}", ended.stderr, ended.stdout);
        text.replace(self.0.path().to_str().unwrap(), "~").replace(&registry.host, "HOST")
    }
}

#[test]
fn a_login_is_tried_kept_and_forgotten_as_docker_does() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let Some(registry) = DockerRegistry::start_secured() else { return };
    let home = Home::new(&registry);
    // It knows its authority, and has no certificate to show.
    let stranger = Home::new(&registry);
    let certificates = stranger.0.path().join(".config/containers/certs.d").join(&registry.host);
    std::fs::remove_file(certificates.join("client.cert")).unwrap();
    std::fs::remove_file(certificates.join("client.key")).unwrap();
    let refused = stranger.login(&kiln, &registry);
    assert_eq!(refused.status, 1);
    refused
        .says(&format!("`client.cert` and `client.key` in ~/.config/containers/certs.d/{}", registry.host));
    let wrong = home.fed(&kiln, &["login", "-u", "me", "--password-stdin", &registry.host], "CANARY");
    assert_eq!(wrong.status, 1);
    insta::assert_snapshot!(home.said(&wrong, &registry), @r"
    error: HOST does not accept this login: authentication required
    --
    ");
    assert!(!home.0.path().join(".docker").exists());

    let right = home.login(&kiln, &registry);
    insta::assert_snapshot!(home.said(&right, &registry), @r"
    WARNING! Your credentials are stored unencrypted in '~/.docker/config.json'.
    Configure a credential helper to remove this warning. See
    https://docs.docker.com/go/credential-store/

    --
    Login Succeeded
    ");
    insta::assert_snapshot!(home.file(".docker/config.json").replace(&registry.host, "HOST").replace('\t', "  "), @r#"
    {
      "auths": {
        "HOST": {
          "auth": "bWU6c2VjcmV0"
        }
      }
    }
    "#);
    let again = home.ok(&kiln, &["login", &registry.host]);
    assert!(again.stderr.starts_with("Authenticating with existing credentials...\n"), "{}", again.stderr);
    assert_eq!(home.ok(&kiln, &["login", "--get-login", &registry.host]).stdout, "me\n");
    let out = home.ok(&kiln, &["logout", &registry.host]);
    insta::assert_snapshot!(home.said(&out, &registry), @r"
    --
    Removing login credentials for HOST
    ");
    let out = home.ok(&kiln, &["logout", &registry.host]);
    insta::assert_snapshot!(home.said(&out, &registry), @r"
    --
    Not logged in to HOST
    ");
    let out = home.ok(&kiln, &["logout"]);
    insta::assert_snapshot!(home.said(&out, &registry), @r"
    --
    Not logged in to https://index.docker.io/v1/
    ");
}

#[test]
fn a_login_that_cannot_be_asked_for_or_is_given_twice_is_refused() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let home = Home(tempfile::tempdir().unwrap());
    for (words, said) in [
        (&["login", "h.example"][..], "cannot ask for a login: standard input is no terminal"),
        (&["login", "--password-stdin"], "Must provide --username with --password-stdin"),
        (
            &["login", "-u", "a", "-p", "b", "--password-stdin"],
            "--password and --password-stdin are mutually exclusive",
        ),
    ] {
        let ended = home.call(&kiln, words);
        assert_eq!(ended.status, 1);
        ended.says(said);
    }
    let Some(registry) = DockerRegistry::start_secured() else { return };
    let home = Home::new(&registry);
    for flag in ["--authfile", "--compat-auth-file"] {
        let ended = home.ok(&kiln, &["login", "-u", "me", "-p", "secret", flag, "auth.json", &registry.host]);
        ended.says("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        assert!(home.file("auth.json").contains("bWU6c2VjcmV0"), "{flag}");
        home.ok(&kiln, &["logout", flag, "auth.json", &registry.host]);
        assert!(!home.file("auth.json").contains("bWU6c2VjcmV0"), "{flag}");
    }
    home.call(&kiln, &["login", "--authfile", "a", "--compat-auth-file", "b"]).says("cannot be used with");
}

/// Files that a build needs.
fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn skopeo(words: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(words).output().unwrap();
    assert!(output.status.success(), "skopeo {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a name stands for, as skopeo reads it.
fn raw(name: &str) -> serde_json::Value {
    let text = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    serde_json::from_str(&text).unwrap()
}

/// Blobs and layers in the store.
fn stored(kiln: &Kiln) -> (Vec<String>, usize) {
    let names = |path: &str| -> Vec<String> {
        let entries = std::fs::read_dir(kiln.root().join(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    (names("blobs/sha256"), names("layers").len())
}

#[test]
fn a_build_is_pushed_to_every_name_and_pulled_and_pushed_again() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let Some(registry) = DockerRegistry::start_secured() else { return };
    let home = Home::new(&registry);
    let folder = context(&[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "hello\n")]);
    let (one, two) = (format!("{}/me/one:1", registry.host), format!("{}/me/two:latest", registry.host));
    let path = folder.path().to_str().unwrap();
    let build = |words: &[&str]| {
        let mut line = vec!["build", "--progress=plain", path];
        line.extend(words);
        home.call(&kiln, &line)
    };
    let refused = build(&["--push"]);
    assert_eq!(refused.status, 1);
    refused.says("tag is needed when pushing to registry");
    let refused = build(&["--push", "-t", &one]);
    assert_eq!(refused.status, 1);
    refused.says("refuses access");
    refused.says(&format!("kiln login {}", registry.host));
    assert_eq!(stored(&kiln).1, 0, "it was built first: {}", refused.stderr);

    home.login(&kiln, &registry);
    let metadata = folder.path().join("metadata.json");
    let output = format!("type=registry,\"name={one},{two}\",name-canonical=true");
    let built = build(&["-o", &output, "--metadata-file", metadata.to_str().unwrap()]);
    assert_eq!(built.status, 0, "{}", built.stderr);
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap().to_owned();
    assert_eq!(metadata["image.name"], format!("{one},{two}"));
    let canonical = format!("{}@{digest}", one.trim_end_matches(":1"));
    home.ok(&kiln, &["inspect", &canonical]);

    // Another store and the same login: what was pushed is what is pulled, and it can be pushed elsewhere.
    let other = Kiln::new("registries").unwrap();
    for name in [&one, &two] {
        let pulled = home.ok(&other, &["pull", name]);
        assert!(pulled.stdout.contains(&format!("Digest: {digest}\n")), "{}", pulled.stdout);
    }
    let again = home.ok(&other, &["pull", &one]);
    insta::assert_snapshot!(again.stdout.replace(&registry.host, "HOST").replace(&digest, "DIGEST"), @r"
    1: Pulling from me/one
    Digest: DIGEST
    Status: Image is up to date for HOST/me/one:1
    HOST/me/one:1
    ");
    assert_eq!(home.ok(&other, &["pull", "-q", &one]).stdout, format!("{one}\n"));
    let third = format!("{}/you/third:2", registry.host);
    home.ok(&other, &["tag", &one, &third]);
    let pushed = home.ok(&other, &["push", &third]);
    let layer = pushed.stdout.lines().nth(1).unwrap().split(':').next().unwrap().to_owned();
    let said =
        pushed.stdout.replace(&registry.host, "HOST").replace(&digest, "DIGEST").replace(&layer, "LAYER");
    // Compressed times have one length or another.
    let size = format!("size: {}", metadata["containerimage.descriptor"]["size"]);
    let said = said.replace(&size, "size: SIZE");
    insta::assert_snapshot!(said, @r"
    The push refers to repository [HOST/you/third]
    LAYER: Mounted from me/two
    2: digest: DIGEST size: SIZE
    ");
    assert_eq!(home.ok(&other, &["push", "-q", &third]).stdout, format!("{third}\n"));

    // All tags of a repository, there and back.
    home.ok(&other, &["tag", &one, &third.replace(":2", ":3")]);
    let repository = third.trim_end_matches(":2");
    assert_eq!(home.call(&other, &["push", "-a", &third]).status, 1);
    let pushed = home.ok(&other, &["push", "-a", repository]);
    assert_eq!(pushed.stdout.matches("digest: ").count(), 2, "{}", pushed.stdout);
    let fresh = Kiln::new("registries").unwrap();
    let pulled = home.ok(&fresh, &["pull", "-a", repository]);
    assert_eq!(pulled.stdout.matches("Downloaded newer image").count(), 2, "{}", pulled.stdout);
    assert_eq!(home.ok(&fresh, &["images", "-q", repository]).stdout.lines().count(), 2);
}

#[test]
fn an_index_of_several_platforms_is_pushed_and_so_is_one_of_its_images() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let folder = context(&[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n"),
        ("amd64", "a"),
        ("arm64", "b"),
    ]);
    let name = format!("{}/me/both:1", registry.host);
    kiln.build(folder.path(), &["--platform=linux/amd64,linux/arm64", "--push", "-t", &name, "."]);
    let index = raw(&name);
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    skopeo(&[
        "copy",
        "--all",
        "--src-tls-verify=false",
        &format!("docker://{name}"),
        &format!("dir:{}", folder.path().join("copy").display()),
    ]);

    let again = name.replace("both", "again");
    kiln.ok(folder.path(), &["tag", &name, &again]);
    kiln.ok(folder.path(), &["push", &again]);
    assert_eq!(raw(&again)["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    kiln.ok(folder.path(), &["push", "--platform=linux/arm64", &name]);
    let arm64 = index["manifests"][1]["digest"].as_str().unwrap();
    assert_eq!(
        skopeo(&[
            "inspect",
            "--tls-verify=false",
            "--override-arch=arm64",
            "--format={{.Digest}}",
            &format!("docker://{name}")
        ])
        .trim(),
        arm64
    );

    // Known by its digest alone.
    let quiet = format!("{}/me/quiet", registry.host);
    let output = format!("type=image,name={quiet},push=true,push-by-digest=true");
    let metadata = folder.path().join("metadata.json");
    kiln.build(folder.path(), &["-o", &output, "--metadata-file", metadata.to_str().unwrap(), "."]);
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    raw(&format!("{quiet}@{}", metadata["containerimage.digest"].as_str().unwrap()));
    let tags = kiln.call(folder.path(), &["pull", "-a", &quiet]);
    assert_eq!(tags.status, 1, "{}", tags.stdout);
}

#[test]
fn a_base_that_nobody_looks_into_passes_through_or_is_mounted() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let folder = context(&[("Dockerfile", "ARG BASE\nFROM $BASE\nENV A=b\n")]);
    // From one registry to another: the layer's bytes are not kept.
    let through = format!("{}/me/through:1", registry.host);
    kiln.build(folder.path(), &["--build-arg=BASE=busybox", "--push", "-t", &through, "."]);
    let layer =
        raw(&through)["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let (blobs, layers) = stored(&kiln);
    assert!(!blobs.contains(&layer));
    assert_eq!(layers, 0);
    // Within a registry: it goes from one repository to the other.
    let other = Kiln::new("registries").unwrap();
    let mounted = format!("{}/you/mounted:1", registry.host);
    let base = format!("--build-arg=BASE={through}");
    other.build(folder.path(), &[&base, "--push", "-t", &mounted, "."]);
    assert_eq!(raw(&mounted)["layers"], raw(&through)["layers"]);
    let (blobs, layers) = stored(&other);
    assert!(!blobs.contains(&layer));
    assert_eq!(layers, 0);
    // What was pushed so can still be run: it is in its registry.
    other.ok(folder.path(), &["pull", &mounted]);
    assert_eq!(other.run(&[&mounted, "sh", "-c", "echo $A"]), "b\n");
    // And a copy of it in the store says where its layers can be mounted from.
    let third = format!("{}/we/third:1", registry.host);
    other.ok(folder.path(), &["tag", &mounted, &third]);
    other.ok(folder.path(), &["push", &third]).says("Mounted from you/mounted");
}

#[test]
fn a_large_layer_is_sent_while_it_is_compressed_and_nothing_is_sent_twice() {
    let Some(kiln) = Kiln::new("registries") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let folder = context(&[("Dockerfile", "FROM scratch\nCOPY large /\nCOPY small /\n"), ("small", "s")]);
    // Nothing that could be compressed.
    let mut noise = std::fs::File::open("/dev/urandom").unwrap().take(12 << 20);
    std::io::copy(&mut noise, &mut std::fs::File::create(folder.path().join("large")).unwrap()).unwrap();
    for repository in ["me/one", "me/one", "me/two"] {
        let name = format!("{}/{repository}:1", registry.host);
        kiln.build(folder.path(), &["--push", "-t", &name, "."]);
    }
    // Three blobs were put once, for the second repository they were mounted; and there were three manifests.
    assert_eq!((registry.answered("PATCH"), registry.answered("PUT")), (1, 3 + 3));
    let other = Kiln::new("registries").unwrap();
    other.ok(folder.path(), &["pull", &format!("{}/me/two:1", registry.host)]);
    other.build(folder.path(), &["-o", "out", "."]);
}

#[test]
fn a_short_name_is_what_registries_conf_says() {
    let Some(kiln) = Kiln::new("short names") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let folder = context(&[
        ("Dockerfile", "FROM busybox\nCMD [\"echo\", \"said\"]\n"),
        ("alias.Dockerfile", "FROM sample:1\nRUN echo > /made\n"),
        ("search.Dockerfile", "FROM me/app:1\nRUN echo > /made\n"),
    ]);
    let path = folder.path();
    kiln.build(path, &["--push", "-t", &format!("{}/me/app:1", registry.host), "."]);
    let conf = path.join("registries.conf");
    let configured = |text: String| std::fs::write(&conf, text).unwrap();
    let call = |kiln: &Kiln, words: &[&str]| -> Ended {
        kiln.command(path, words).env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap().into()
    };
    let ok = |kiln: &Kiln, words: &[&str]| {
        let ended = call(kiln, words);
        assert_eq!(ended.status, 0, "{words:?}: {}", ended.stderr);
        ended
    };
    configured(format!("[aliases]\nsample = \"{}/me/app\"\n", registry.host));
    let other = Kiln::new("short names").unwrap();
    ok(&other, &["build", "-q", "-f", "alias.Dockerfile", "."]);
    // It is known by now.
    ok(&other, &["build", "-q", "--offline", "-f", "alias.Dockerfile", "."]);
    let third = Kiln::new("short names").unwrap();
    assert_eq!(ok(&third, &["pull", "-q", "sample:1"]).stdout, format!("{}/me/app:1\n", registry.host));
    assert_eq!(ok(&third, &["run", "--rm", "sample:1"]).stdout, "said\n");

    // Where several registries may have it, the first that does.
    let search = format!("unqualified-search-registries = [\"127.0.0.1:1\", \"{}\"]\n", registry.host);
    configured(search.clone());
    let fourth = Kiln::new("short names").unwrap();
    ok(&fourth, &["build", "-q", "-f", "search.Dockerfile", "."]);
    assert_eq!(ok(&fourth, &["run", "--rm", "me/app:1"]).stdout, "said\n");
    configured(format!("short-name-mode = \"enforcing\"\n{search}"));
    let fifth = Kiln::new("short names").unwrap();
    let ended = call(&fifth, &["build", "-f", "search.Dockerfile", "."]);
    assert_eq!(ended.status, 1);
    ended.says("the short name `me/app` is ambiguous");
    ended.says("[aliases]");
}
