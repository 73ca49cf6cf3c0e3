//! What `--provenance` and `--sbom` attach to images, and that other tools and registries take it.

use std::path::Path;
use std::process::Command;

use kiln_fixtures::{Context, DockerRegistry};
use serde_json::Value;

use crate::kiln::Kiln;

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SBOM: &str = "https://spdx.dev/Document";

fn context() -> Context {
    let metadata = "Metadata-Version: 2.1\\nName: Some_Pkg\\nVersion: 1.2.3\\n";
    Context::with_dockerfile(&format!(
        "FROM debian\nARG PASS=none\nRUN --mount=type=secret,id=token,env=TOKEN \
         mkdir -p /opt/lib/some_pkg-1.2.3.dist-info && \
         printf '{metadata}' > /opt/lib/some_pkg-1.2.3.dist-info/METADATA\nLABEL a=b\n"
    ))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `skopeo inspect --raw` of a manifest, and the blobs of it.
struct Skopeo {
    transport: String,
}

impl Skopeo {
    fn raw(&self, name: &str) -> Value {
        let output = Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &format!("{}{name}", self.transport)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// An index of one image: the image, its attestation manifest.
fn split(index: &Value) -> (&Value, &Value) {
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let manifests = index["manifests"].as_array().unwrap();
    let [image, attestation] = manifests.as_slice() else { panic!("{index}") };
    assert_eq!(attestation["platform"]["os"], "unknown");
    assert_eq!(attestation["platform"]["architecture"], "unknown");
    assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    (image, attestation)
}

/// The predicate of a kind among the layers of an attestation manifest, whose subject is checked.
fn predicate(manifest: &Value, image: &Value, kind: &str, blob: &dyn Fn(&str) -> Value) -> Value {
    let layers = manifest["layers"].as_array().unwrap();
    let layer =
        layers.iter().find(|layer| layer["annotations"]["in-toto.io/predicate-type"] == kind).unwrap();
    assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
    let statement = blob(layer["digest"].as_str().unwrap());
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], kind);
    for subject in statement["subject"].as_array().unwrap() {
        assert_eq!(format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()), image["digest"]);
    }
    statement["predicate"].clone()
}

/// Names and URLs of the packages.
fn packages(sbom: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = sbom["packages"].as_array().unwrap().iter();
    packages.map(|one| (text(&one["name"]), text(&one["externalRefs"][0]["referenceLocator"]))).collect()
}

#[test]
fn an_image_carries_how_it_was_made_and_what_is_in_it() {
    let Some(kiln) = Kiln::new("attestations") else { return };
    let context = context();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    std::fs::create_dir(context.path().join(".git")).unwrap();
    std::fs::write(context.path().join(".git/HEAD"), commit).unwrap();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("app.tar");
    std::fs::write(out.path().join("token"), "CANARY-secret").unwrap();
    let secret = format!("id=token,src={}", out.path().join("token").display());
    let output = format!("type=oci,dest={}", archive.display());
    let words = ["--sbom", "--provenance=mode=max", "--secret", &secret, "--build-arg", "PASS=CANARY-arg"];
    kiln.build(context.path(), &[&words[..], &["-t", "app:1", "-o", &output, "."]].concat());

    let layout = out.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    let untar = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).status().unwrap();
    assert!(untar.success());
    let skopeo = Skopeo { transport: format!("oci-archive:{}", archive.display()) };
    let index = skopeo.raw("");
    let (image, attestation) = split(&index);
    let blob = |digest: &str| json(&layout.join("blobs/sha256").join(&digest[7..]));
    let manifest = blob(attestation["digest"].as_str().unwrap());
    assert_eq!(manifest["subject"]["digest"], image["digest"]);

    let provenance = predicate(&manifest, image, PROVENANCE, &blob);
    let materials = &provenance["buildDefinition"]["resolvedDependencies"];
    assert_eq!(materials[0]["uri"], "pkg:docker/debian@latest?platform=linux%2Famd64");
    let registry = Skopeo { transport: format!("docker://{}/", kiln.bases().registry()) };
    let output = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
        .arg(format!("{}debian", registry.transport))
        .output()
        .unwrap();
    let base = String::from_utf8(output.stdout).unwrap();
    assert_eq!(format!("sha256:{}", materials[0]["digest"]["sha256"].as_str().unwrap()), base.trim());
    let request = &provenance["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:PASS"], "CANARY-arg");
    assert_eq!(request["secrets"][0]["id"], "token");
    let steps = &provenance["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
    assert!(steps.to_string().contains("dist-info"), "{steps}");
    assert!(!provenance.to_string().contains("CANARY-secret"));
    assert_eq!(provenance["runDetails"]["metadata"]["buildkit_metadata"]["vcs"]["revision"], commit);

    let sbom = predicate(&manifest, image, SBOM, &blob);
    let found = packages(&sbom);
    let url =
        |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, url)| url.as_str()).unwrap();
    assert!(url("bash").starts_with("pkg:deb/debian/bash@"), "{}", url("bash"));
    assert!(url("dpkg").contains("arch=amd64&distro=debian-12"), "{}", url("dpkg"));
    assert_eq!(url("Some_Pkg"), "pkg:pypi/some-pkg@1.2.3");
    let layers = blob(image["digest"].as_str().unwrap())["layers"].clone();
    let brought = |name: &str| {
        let package = sbom["packages"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        package["comment"].as_str().unwrap().strip_prefix("layerID: ").unwrap().to_owned()
    };
    assert_eq!((brought("bash"), brought("Some_Pkg")), (text(&layers[0]), text(&layers[1])));
}

fn text(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

#[test]
fn attestations_go_to_registries_and_archives_with_their_image() {
    let Some(kiln) = Kiln::new("attestations") else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let context = Context::with_dockerfile("FROM busybox\nARG PASS\nRUN echo made > /made\n");
    let name = format!("{}/app:1", registry.host);
    let attest = ["--sbom", "--provenance=mode=min", "--build-arg", "PASS=CANARY"];
    let push =
        [&attest[..], &["-t", &name, "-o", "type=image,push=true,registry.insecure=true", "."]].concat();
    kiln.build(context.path(), &push);
    let skopeo = Skopeo { transport: format!("docker://{}/", registry.host) };
    let index = skopeo.raw("app:1");
    let (image, attestation) = split(&index);
    let manifest = skopeo.raw(&format!("app@{}", text(attestation)));
    let blob = |digest: &str| -> Value {
        let url = format!("http://{}/v2/app/blobs/{digest}", registry.host);
        let output = Command::new("curl").args(["-sSf", &url]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let provenance = predicate(&manifest, image, PROVENANCE, &blob);
    assert!(!provenance.to_string().contains("CANARY"), "{provenance}");
    assert_eq!(provenance["runDetails"]["metadata"]["buildkit_completeness"]["request"], false);
    let statement = blob(manifest["layers"][0]["digest"].as_str().unwrap());
    let subject = statement["subject"][0]["name"].as_str().unwrap();
    assert_eq!(subject, format!("pkg:docker/{}/app@1?platform=linux%2Famd64", registry.host));

    // From the store it goes the same way.
    let other = format!("{}/copy:1", registry.host);
    kiln.ok(Path::new("/"), &["tag", &name, &other]);
    let pushed = ["push", "--tls-verify=false", &other];
    kiln.ok(Path::new("/"), &pushed);
    assert_eq!(skopeo.raw("copy:1"), index);

    // And to another store.
    let Some(second) = Kiln::new("attestations") else { return };
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("app.tar").display().to_string();
    kiln.ok(Path::new("/"), &["save", "-o", &archive, &name]);
    second.ok(Path::new("/"), &["load", "-i", &archive]);
    let third = format!("{}/third:1", registry.host);
    second.ok(Path::new("/"), &["tag", &name, &third]);
    second.ok(Path::new("/"), &["push", "--tls-verify=false", &third]);
    assert_eq!(skopeo.raw("third:1"), index);
    assert_eq!(second.run(&[&third, "cat", "/made"]), "made\n");

    // Through a registry, under the index that it came with.
    let Some(puller) = Kiln::new("attestations") else { return };
    puller.ok(Path::new("/"), &["pull", "--tls-verify=false", &name]);
    let fourth = format!("{}/fourth:1", registry.host);
    puller.ok(Path::new("/"), &["tag", &name, &fourth]);
    puller.ok(Path::new("/"), &["push", "--tls-verify=false", &fourth]);
    assert_eq!(skopeo.raw("fourth:1"), index);
    assert_eq!(skopeo.raw(&format!("fourth@{}", text(attestation))), manifest);

    // docker's archives are read by what knows nothing of it.
    let docker = out.path().join("docker.tar");
    let output = format!("type=docker,dest={}", docker.display());
    kiln.build(context.path(), &["--provenance", "-t", "app:2", "-o", &output, "."]);
    let copied = Command::new("skopeo")
        .args(["copy", "-q", &format!("docker-archive:{}", docker.display())])
        .arg(format!("dir:{}", out.path().join("copied").display()))
        .status();
    assert!(copied.unwrap().success());

    // An older registry's form, and an image of two platforms.
    let output = "type=image,push=true,registry.insecure=true,oci-artifact=false";
    let both =
        ["--platform=linux/amd64,linux/arm64", "--provenance=version=v0.2", "-t", &other, "-o", output, "."];
    let scratch = Context::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    kiln.build(scratch.path(), &both);
    let index = skopeo.raw("copy:1");
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 4);
    for (image, attestation) in manifests[..2].iter().zip(&manifests[2..]) {
        assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
        let manifest = skopeo.raw(&format!("copy@{}", text(attestation)));
        assert!(manifest.get("subject").is_none());
        let blob = |digest: &str| -> Value {
            let url = format!("http://{}/v2/copy/blobs/{digest}", registry.host);
            serde_json::from_slice(&Command::new("curl").args(["-sSf", &url]).output().unwrap().stdout)
                .unwrap()
        };
        let provenance = predicate(&manifest, image, "https://slsa.dev/provenance/v0.2", &blob);
        assert_eq!(provenance["buildType"], "https://mobyproject.org/buildkit@v1");
    }
}

#[test]
fn attestations_stand_beside_a_file_tree_and_an_epoch_makes_them_the_same() {
    let Some(kiln) = Kiln::new("attestations") else { return };
    let context = Context::with_dockerfile("FROM busybox\nRUN echo made > /made\n");
    let out = tempfile::tempdir().unwrap();
    let attest = ["--attest", "type=sbom", "--attest", "type=provenance,mode=max"];
    let build = |more: &[&str], output: &str| {
        kiln.build(context.path(), &[&attest[..], more, &["-o", output, "."]].concat());
    };
    let tree = out.path().join("tree");
    build(&[], &format!("type=local,attestation-prefix=app.,dest={}", tree.display()));
    let statement = json(&tree.join("app.provenance.json"));
    assert_eq!(statement["predicateType"], PROVENANCE);
    let subjects = statement["subject"].as_array().unwrap();
    let made = subjects.iter().find(|subject| subject["name"] == "made").unwrap();
    assert_eq!(made["digest"]["sha256"], "9ccbd3f1b19a1cdfd8d7c6ae48e9e822e2345f5be1a6187b19e41486c6941004");
    assert_eq!(json(&tree.join("app.sbom.spdx.json"))["predicate"]["spdxVersion"], "SPDX-2.3");
    let tar = out.path().join("tree.tar");
    build(&["--provenance=inline-only=true"], &format!("type=tar,dest={}", tar.display()));
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line == "sbom.spdx.json"), "{listed}");
    assert!(!listed.contains("provenance.json"));

    let Some(second) = Kiln::new("attestations") else { return };
    let archive = |kiln: &Kiln, name: &str| {
        let path = out.path().join(name);
        let output = format!("type=oci,rewrite-timestamp=true,dest={}", path.display());
        let epoch = ["--source-date-epoch", "1700000000", "-o", &output, "."];
        kiln.build(context.path(), &[&attest[..], &epoch].concat());
        std::fs::read(path).unwrap()
    };
    assert!(archive(&kiln, "one.tar") == archive(&second, "two.tar"));

    let refused = kiln.call(
        context.path(),
        &["build", "--sbom", "-o", "type=oci,oci-mediatypes=false,dest=/dev/null", "."],
    );
    assert_eq!(refused.status, 1);
    refused.says("cannot export attestations with \"oci-mediatypes=false\"");
}

#[test]
fn stages_and_the_context_have_packages_of_their_own_where_the_dockerfile_asks() {
    let Some(kiln) = Kiln::new("attestations of stages") else { return };
    let metadata = "Metadata-Version: 2.1\\nName: inner\\nVersion: 1\\n";
    let context = Context::with_dockerfile(&format!(
        "ARG BUILDKIT_SBOM_SCAN_CONTEXT=false\nFROM busybox AS quiet\nFROM busybox AS tools\n\
         ARG BUILDKIT_SBOM_SCAN_STAGE=tools\nRUN mkdir -p /x/inner-1.dist-info && printf '{metadata}' > /x/inner-1.dist-info/METADATA\n\
         FROM busybox\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
         COPY --from=tools /etc/passwd /p\nCOPY --from=quiet /etc/passwd /q\n"
    ));
    let folder = context.path();
    let lock = "[[package]]\nname = \"outer\"\nversion = \"2.0.0\"\nsource = \"registry+https://r\"\n";
    std::fs::write(folder.join("Cargo.lock"), lock).unwrap();
    kiln.build(folder, &["--sbom", "-o", "type=local,dest=out", "."]);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_string_lossy().starts_with("sbom"));
    names.sort();
    assert_eq!(names, ["sbom-context.spdx.json", "sbom-tools.spdx.json", "sbom.spdx.json"]);
    let found = |name: &str| packages(&json(&folder.join("out").join(name))["predicate"]);
    assert!(found("sbom-tools.spdx.json").iter().any(|(name, _)| name == "inner"));
    assert!(found("sbom-context.spdx.json").iter().any(|(name, _)| name == "outer"));
    assert!(found("sbom.spdx.json").iter().all(|(name, _)| name != "inner" && name != "outer"));
}
