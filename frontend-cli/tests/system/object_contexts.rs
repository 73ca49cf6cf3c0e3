//! Contexts from stores of objects, and kaniko's other words for contexts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kiln_fixtures::Context;
use serde_json::{Value, json};

use crate::kiln::{Ended, Kiln};
use crate::object_stores::{Manner, Seen, Server};
use crate::remote_cache::{flags, project};

const CANARY: &str = "ObjectContextCanary";

/// An archive whose Dockerfile copies `a`, and that of `sub` its `b`.
fn archive() -> Vec<u8> {
    let context = Context::with_dockerfile("FROM scratch\nCOPY a /a\n");
    let root = context.path();
    std::fs::write(root.join("a"), "A").unwrap();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::fs::write(root.join("sub/b"), "B").unwrap();
    std::fs::write(root.join("sub/Dockerfile"), "FROM scratch\nCOPY b /b\n").unwrap();
    Command::new("tar").args(["-cz", "."]).current_dir(root).output().unwrap().stdout
}

/// `kiln build` with these variables and none of the machine's own credentials.
fn command(kiln: &Kiln, folder: &Path, vars: &[(&str, &str)], words: &[&str]) -> Command {
    let mut command = kiln.command(folder, &[&["build", "--progress=plain"], words].concat());
    for prefix in ["AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "S3_", "GIT_", "STORAGE_"] {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(prefix) {
                command.env_remove(name);
            }
        }
    }
    command.env("HOME", folder).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("GCE_METADATA_HOST", "127.0.0.1:1").envs(vars.iter().copied());
    command
}

fn build(kiln: &Kiln, vars: &[(&str, &str)], words: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    command(kiln, folder.path(), vars, words).output().unwrap().into()
}

/// Builds `address` twice; what the server was asked.
#[track_caller]
fn builds_twice(server: &Server, vars: &[(&str, &str)], address: &str) -> Vec<Seen> {
    let Some(kiln) = Kiln::new("contexts from stores of objects") else { return Vec::new() };
    let there = tempfile::tempdir().unwrap();
    let out = format!("type=local,dest={}", there.path().join("out").display());
    for number in 0..2 {
        let ended = build(&kiln, vars, &["-o", &out, address]);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        ended.says(&format!("load remote build context {address}"));
        assert_eq!(ended.steps(), if number == 0 { (1, 0) } else { (0, 1) }, "{}", ended.stderr);
        assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
    }
    assert_eq!(std::fs::read_to_string(there.path().join("out/a")).unwrap(), "A");
    let seen = server.seen();
    let [first, second] = &seen[..] else { panic!("{} requests", seen.len()) };
    // The second time nothing is sent that is here.
    assert_eq!(first.header("if-none-match"), None);
    assert!(second.header("if-none-match").is_some(), "{}", second.head);
    seen
}

#[test]
fn a_context_from_s3_is_asked_for_with_a_signature_and_only_once() {
    let server = Server::start();
    server.put("/ci/dir/c.tgz", archive());
    let endpoint = format!("http://{}", server.address);
    let vars = [
        ("AWS_ACCESS_KEY_ID", "KEYID"),
        ("AWS_SECRET_ACCESS_KEY", CANARY),
        ("AWS_REGION", "eu-west-1"),
        ("S3_ENDPOINT", &endpoint),
        ("S3_FORCE_PATH_STYLE", "true"),
    ];
    for request in builds_twice(&server, &vars, "s3://ci/dir/c.tgz") {
        let signed = request.header("authorization").unwrap();
        assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=KEYID/"), "{signed}");
        assert!(signed.contains("/eu-west-1/s3/aws4_request,"), "{signed}");
    }
}

#[test]
fn the_role_of_a_container_signs_as_keys_do() {
    let server = Server::start();
    server.put("/ci/context.tar.gz", archive());
    let keys = json!({
        "AccessKeyId": "ROLEID", "SecretAccessKey": CANARY, "Token": "session", "Expiration": "2099-01-01T00:00:00Z",
    });
    server.put("/role", keys.to_string());
    let (endpoint, role) = (format!("http://{}", server.address), format!("http://{}/role", server.address));
    let vars = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &role)];
    let Some(kiln) = Kiln::new("contexts from stores of objects") else { return };
    let ended = build(&kiln, &vars, &["s3://ci"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let seen = server.seen();
    let [role, object] = &seen[..] else { panic!("{} requests", seen.len()) };
    assert_eq!((role.path.as_str(), object.path.as_str()), ("/role", "/ci/context.tar.gz"));
    assert!(object.header("authorization").unwrap().contains("Credential=ROLEID/"), "{}", object.head);
    assert_eq!(object.header("x-amz-security-token"), Some("session"));
}

#[test]
fn contexts_from_google_and_azure() {
    let server = Server::start();
    server.put("/ci/dir/c.tgz", archive());
    let vars = [("STORAGE_EMULATOR_HOST", server.address.as_str())];
    builds_twice(&server, &vars, "gs://ci/dir/c.tgz");

    let server = Server::start();
    server.put("/acc/ci/c.tgz", archive());
    let endpoint = format!("http://{}/acc", server.address);
    let key = STANDARD.encode(CANARY);
    let connection = format!("AccountName=acc;AccountKey={key};BlobEndpoint={endpoint};");
    let vars = [("AZURE_STORAGE_CONNECTION_STRING", connection.as_str())];
    for request in builds_twice(&server, &vars, &format!("{endpoint}/ci/c.tgz")) {
        let signed = request.header("authorization").unwrap();
        assert!(signed.starts_with("SharedKey acc:"), "{signed}");
    }
    let connection =
        format!("AccountName=acc;SharedAccessSignature=sv=1&sig={CANARY};BlobEndpoint={endpoint}");
    let Some(kiln) = Kiln::new("contexts from stores of objects") else { return };
    let address = format!("{endpoint}/ci/c.tgz");
    let ended = build(&kiln, &[("AZURE_STORAGE_CONNECTION_STRING", &connection)], &[&address]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
    let asked = server.seen().pop().unwrap();
    assert_eq!(asked.path, format!("/acc/ci/c.tgz?sv=1&sig={CANARY}"));
    assert_eq!(asked.header("authorization"), None);
}

/// The claims of a signed token, once openssl has found the signature right.
fn verified(token: &str, key: &Path) -> Value {
    let (text, signature) = token.rsplit_once('.').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (text_file, signature_file) = (folder.path().join("text"), folder.path().join("signature"));
    std::fs::write(&text_file, text).unwrap();
    std::fs::write(&signature_file, URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let ended = Command::new("openssl")
        .args(["dgst", "-sha256", "-prverify"])
        .args([key, Path::new("-signature"), &signature_file, &text_file])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let (_, claims) = text.split_once('.').unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[test]
fn googles_key_file_is_good_for_a_token() {
    let Some(kiln) = Kiln::new("Google's key file") else { return };
    let server = Server::start();
    server.put("/token", json!({ "access_token": CANARY, "expires_in": 3600 }).to_string());
    let there = tempfile::tempdir().unwrap();
    let (key, file) = (there.path().join("key.pem"), there.path().join("key.json"));
    let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
    assert!(made.status.success());
    let url = format!("http://{}/token", server.address);
    let pem = std::fs::read_to_string(&key).unwrap();
    let contents = json!({
        "type": "service_account", "client_email": "ci@p.iam", "private_key": pem, "token_uri": url, "other": 1,
    });
    std::fs::write(&file, contents.to_string()).unwrap();
    let spec = format!("--cache-from=type=gcs,bucket=ci,endpoint_url=http://{}", server.address);
    let context = project();
    let mut command = command(&kiln, context.path(), &[], &flags(&[&spec]));
    let ended: Ended = command.env("GOOGLE_APPLICATION_CREDENTIALS", &file).output().unwrap().into();
    ended.says("there is no cache");
    let seen = server.seen();
    let [token, object] = &seen[..] else { panic!("{} requests", seen.len()) };
    assert_eq!(object.header("authorization"), Some(format!("Bearer {CANARY}").as_str()));
    let form = String::from_utf8(token.body.clone()).unwrap();
    let (_, claim) = form.split_once("&assertion=").unwrap();
    let claims = verified(claim, &key);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("ci@p.iam"), &json!(url)));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
}

#[test]
fn what_a_store_refuses_is_told_with_the_variables() {
    let Some(kiln) = Kiln::new("refused contexts") else { return };
    let told = |server: &Server, vars: &[(&str, &str)], address: &str| {
        let endpoint = format!("http://{}", server.address);
        let ended = build(&kiln, &[vars, &[("S3_ENDPOINT", &endpoint)]].concat(), &[address]);
        assert_eq!(ended.status, 1);
        let (_, report) = ended.stderr.rsplit_once("\nerror: ").unwrap();
        format!("error: {report}").replace(&server.address, "HOST")
    };
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", CANARY)];
    let server = Server::start();
    insta::assert_snapshot!(told(&server, &keys, "s3://ci/c.tgz"), @r"
    error: s3://ci/c.tgz: there is no such object
    hint: check the names of bucket and object
    ");
    let server = Server::with(Manner::RefusesAll);
    insta::assert_snapshot!(told(&server, &keys, "s3://ci/c.tgz"), @r"
    error: s3://ci/c.tgz: access is denied (AccessDenied: No.)
    hint: the credentials need s3:GetObject; without s3:ListBucket an object that is not there is denied, too
    ");
    insta::assert_snapshot!(told(&server, &[], "s3://ci/c.tgz"), @r"
    error: s3://ci/c.tgz: access is denied without credentials (AccessDenied: No.)
    hint: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION), or AWS_PROFILE for one of ~/.aws/credentials
    ");
    insta::assert_snapshot!(told(&server, &[], "s3:///c.tgz"), @r"
    error: s3:///c.tgz: the address names no bucket
    ");
    let role = format!("http://{}/role", server.address);
    let role = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.as_str())];
    insta::assert_snapshot!(told(&server, &role, "s3://ci/c.tgz"), @r"
    error: s3://ci/c.tgz: no credentials from HOST: 403 AccessDenied: No.
    ");
    let file = [("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/key.json")];
    insta::assert_snapshot!(told(&server, &file, "gs://ci/c.tgz"), @r"
    error: gs://ci/c.tgz: GOOGLE_APPLICATION_CREDENTIALS names /no/such/key.json, which cannot be read
    ");
}

#[test]
fn kanikos_words_for_what_is_on_the_machine() {
    let Some(kiln) = Kiln::new("kaniko's contexts") else { return };
    let there = tempfile::tempdir().unwrap();
    let (file, folder) = (there.path().join("c.tgz"), there.path().join("c"));
    std::fs::write(&file, archive()).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(&folder).status().unwrap();
    assert!(unpacked.success());
    let out = there.path().join("out");
    let output = format!("type=local,dest={}", out.display());
    let made = |words: &[&str], name: &str| {
        let words = [&["build", "--progress=plain", "-o", &output], words].concat();
        let mut command = kiln.command(there.path(), &words);
        let stdin = std::fs::File::open(&file).unwrap();
        let ended: Ended = command.stdin(Stdio::from(stdin)).output().unwrap().into();
        assert_eq!(ended.status, 0, "{words:?}: {}", ended.stderr);
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        std::fs::remove_dir_all(&out).unwrap();
        text
    };
    let absolute = format!("tar://{}", file.display());
    for context in ["tar://c.tgz", &absolute, "tar://stdin", "dir://c", "c"] {
        assert_eq!(made(&[context], "a"), "A", "{context}");
        for sub in ["sub", "/sub/", "../sub"] {
            assert_eq!(made(&["--context-sub-path", sub, context], "b"), "B", "{context} {sub}");
        }
    }
    // Named contexts, too: what is in the archive.
    std::fs::write(there.path().join("Dockerfile"), "FROM scratch\nCOPY --from=x sub/b /b\n").unwrap();
    for context in ["x=tar://c.tgz", "x=dir://c"] {
        assert_eq!(made(&["--build-context", context, "."], "b"), "B", "{context}");
    }
    let told = |words: &[&str]| {
        let ended = kiln.call(there.path(), &[&["build", "--progress=none"], words].concat());
        assert_eq!(ended.status, 1);
        ended.stderr
    };
    insta::assert_snapshot!(told(&["tar://none.tgz"]), @r"
    error: the archive none.tgz is not there
    ");
    insta::assert_snapshot!(told(&["tar://c/a"]), @r"
    error: c/a is no archive
    hint: a tar is wanted, plain or in gzip, zstd, bzip2 or xz
    ");
    insta::assert_snapshot!(told(&["--context-sub-path=sub/b", "c"]), @r"
    error: the context has no directory `sub/b`
    ");
}

#[test]
fn a_link_in_a_context_leads_no_sub_path_out_of_it() {
    let Some(kiln) = Kiln::new("sub paths") else { return };
    let there = tempfile::tempdir().unwrap();
    let secret = there.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("Dockerfile"), "FROM scratch\n").unwrap();
    let folder = there.path().join("c");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("link")).unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("up")).unwrap();
    for link in ["link", "up"] {
        let words = ["build", "--progress=none", "--context-sub-path", link, "c"];
        let ended = kiln.call(there.path(), &words);
        assert_eq!(ended.status, 1, "{link}");
        ended.says("the context has no directory");
    }
}

/// A repository that any web server can serve, and its first commit; a second one is on `main`.
fn repository(server: &Server) -> String {
    let there = tempfile::tempdir().unwrap();
    let git = |words: &[&str]| {
        let ended = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"])
            .args(words)
            .current_dir(there.path())
            .output()
            .unwrap();
        assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    let commit = |text: &str| {
        std::fs::write(there.path().join("a"), text).unwrap();
        std::fs::write(there.path().join("Dockerfile"), "FROM scratch\nCOPY a /a\n").unwrap();
        git(&["add", "-A"]);
        git(&["commit", "-qm", text]);
        git(&["rev-parse", "HEAD"])
    };
    let first = commit("one");
    commit("two");
    git(&["update-server-info"]);
    let root = there.path().join(".git");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => {
                    let path = entry.strip_prefix(&root).unwrap().display().to_string();
                    server.put(&format!("/r.git/{path}"), std::fs::read(&entry).unwrap());
                }
            }
        }
    }
    first
}

#[test]
fn kanikos_git_is_http_with_a_token_and_takes_a_commit() {
    let Some(kiln) = Kiln::new("kaniko's git") else { return };
    let server = Server::start();
    let first = repository(&server);
    let there = tempfile::tempdir().unwrap();
    let output = format!("type=local,dest={}", there.path().display());
    let vars = [("GIT_PULL_METHOD", "http"), ("GIT_TOKEN", CANARY)];
    for (fragment, text) in
        [("refs/heads/main".to_owned(), "two"), (format!("refs/heads/main#{first}"), "one")]
    {
        let address = format!("git://{}/r#{fragment}", server.address);
        let ended = build(&kiln, &vars, &["-o", &output, &address]);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert!(!ended.stderr.contains(CANARY), "{}", ended.stderr);
        assert_eq!(std::fs::read_to_string(there.path().join("a")).unwrap(), text);
    }
    let login = format!("Basic {}", STANDARD.encode(format!("{CANARY}:")));
    assert!(server.seen().iter().all(|asked| asked.header("authorization") == Some(login.as_str())));
}
