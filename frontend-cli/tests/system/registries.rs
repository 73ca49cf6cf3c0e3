//! Logins, pushes and pulls with Debian's docker-registry: with TLS, an authority and client certificates of its own, and
//! a password.

use std::io::Write as _;
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
    let ended =
        home.ok(&kiln, &["login", "-u", "me", "-p", "secret", "--authfile", "auth.json", &registry.host]);
    ended.says("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    assert!(home.file("auth.json").contains("bWU6c2VjcmV0"));
    home.ok(&kiln, &["logout", "--authfile", "auth.json", &registry.host]);
    assert!(!home.file("auth.json").contains("bWU6c2VjcmV0"));
}
