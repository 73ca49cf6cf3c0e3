//! Against Debian's docker-registry, filled by skopeo.

use std::io::Read;

use kiln_image::registry::RegistryError;
use kiln_image::{Digest, ImageRef};

use crate::support::{DockerRegistry, cancel, client, platform, skopeo, two_platform_layout};

fn filled() -> Option<(DockerRegistry, crate::support::Image)> {
    let registry = DockerRegistry::start()?;
    let directory = tempfile::tempdir().unwrap();
    let (_, arm64) = two_platform_layout(directory.path());
    let source = format!("oci:{}:both", directory.path().display());
    let target = |name: &str| format!("docker://{}/{name}", registry.host);
    skopeo(&[
        "copy",
        "--all",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &source,
        &target("test/app:both"),
    ])?;
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--format=v2s2",
        "--override-arch=arm64",
        &source,
        &target("docker:1"),
    ])?;
    Some((registry, arm64))
}

#[test]
fn images_are_resolved_and_their_layers_read() {
    let Some((registry, arm64)) = filled() else { return };
    let client = client(&[]);
    let name: ImageRef = format!("{}/test/app:both", registry.host).parse().unwrap();
    let image = client.resolve(&name, &platform("linux/arm64/v8"), &cancel()).unwrap();
    assert_eq!(image.manifest_bytes, arm64.manifest);
    assert_eq!(image.config_bytes, arm64.config);
    assert_ne!(image.digest, image.manifest_digest);
    let mut layer = Vec::new();
    client.blob(&name, &image.manifest.layers[0], &cancel()).unwrap().read_to_end(&mut layer).unwrap();
    assert_eq!(layer, arm64.layer);

    let by_digest = name.without_tag().with_digest(image.digest);
    let again = client.resolve(&by_digest, &platform("linux/arm64"), &cancel()).unwrap();
    assert_eq!(again.manifest_digest, image.manifest_digest);

    let docker: ImageRef = format!("{}/docker:1", registry.host).parse().unwrap();
    let image = client.resolve(&docker, &platform("linux/arm64"), &cancel()).unwrap();
    assert_eq!(image.manifest.media_type.as_deref(), Some(kiln_image::oci::media_type::DOCKER_MANIFEST));
    assert_eq!(image.digest, image.manifest_digest);

    let error = client.resolve(&name, &platform("linux/riscv64"), &cancel()).unwrap_err();
    let text = error.to_string().replace(&registry.host, "HOST");
    insta::assert_snapshot!(text, @"HOST/test/app:both has no image for platform linux/riscv64; it has: linux/amd64, linux/arm64");
    insta::assert_snapshot!(error.hint().unwrap(), @"choose one of them, for example with `--platform=linux/amd64`");

    for missing in ["test/app:none", "nobody/nothing:1"] {
        let name: ImageRef = format!("{}/{missing}", registry.host).parse().unwrap();
        let error = client.resolve(&name, &platform("linux/amd64"), &cancel()).unwrap_err();
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
    }
    let mut absent = image.manifest.layers[0].clone();
    absent.digest = Digest::of(b"absent");
    let error = client.blob(&name, &absent, &cancel()).err().unwrap();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
}

#[test]
fn a_mirror_is_asked_first_and_the_next_when_it_has_nothing() {
    let Some((registry, arm64)) = filled() else { return };
    let conf = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[[registry]]\nprefix = \"registry.invalid\"\n[[registry.mirror]]\nlocation = \"{0}/empty\"\n[[registry.mirror]]\nlocation = \"{0}/test\"\n",
        registry.host
    );
    std::fs::write(conf.path(), text).unwrap();
    let client = client(&[("CONTAINERS_REGISTRIES_CONF", conf.path().to_str().unwrap())]);
    let name: ImageRef = "registry.invalid/app:both".parse().unwrap();
    let image = client.resolve(&name, &platform("linux/arm64"), &cancel()).unwrap();
    assert_eq!(image.config_bytes, arm64.config);
    assert_eq!(image.reference, name);
}

#[test]
fn an_unproven_certificate_serves_on_loopback_only_where_a_registry_is_meant() {
    let Some(registry) = DockerRegistry::start_tls() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (amd64, _) = two_platform_layout(directory.path());
    let source = format!("oci:{}:both", directory.path().display());
    let target = format!("docker://{}/app:both", registry.host);
    if skopeo(&["copy", "--all", "--dest-tls-verify=false", &source, &target]).is_none() {
        return;
    }
    let client = client(&[]);
    let name: ImageRef = format!("{}/app:both", registry.host).parse().unwrap();
    let image = client.resolve(&name, &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(image.config_bytes, amd64.config);

    let error = client.http().fetch_url(&format!("https://{}/v2/", registry.host), &cancel()).unwrap_err();
    let text = error.to_string().replace(&registry.host, "HOST");
    insta::assert_snapshot!(text, @"HOST cannot be reached: invalid peer certificate: UnknownIssuer");
    insta::assert_snapshot!(error.hint().unwrap(), @"add the authority that signed it to your system's certificates, or name a bundle in SSL_CERT_FILE");
}
