//! Logins and certificates, with Debian's docker-registry.

use std::sync::Arc;

use kiln_image::ImageRef;
use kiln_image::registry::{Login, PushBlob, Registry, RegistryConfig, RegistryError, Server, Verify};

use crate::support::{DockerRegistry, Image, MANIFEST, cancel, client, platform};

/// A home with the registry's folder of `certs.d`.
fn home(registry: &DockerRegistry, files: &[&str]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/containers/certs.d").join(&registry.host);
    std::fs::create_dir_all(&folder).unwrap();
    for file in files {
        let from = registry.certificates.as_ref().unwrap().path().join(file);
        std::fs::copy(from, folder.join(file)).unwrap();
    }
    home
}

fn config(home: &tempfile::TempDir) -> RegistryConfig {
    let home = home.path().to_str().unwrap().to_owned();
    RegistryConfig::load(&|name| (name == "HOME").then(|| home.clone())).unwrap()
}

fn login(password: &str) -> Login {
    Login { username: "me".into(), password: password.into() }
}

#[test]
fn a_registry_takes_the_right_login_from_a_client_with_the_right_certificate() {
    let Some(registry) = DockerRegistry::start_secured() else { return };
    let server = Server::parse(&registry.host);
    let check = |files: &[&str], password: &str| {
        let home = home(&registry, files);
        let registry = Registry::new(config(&home)).unwrap();
        registry.check_login(&server, &login(password), &cancel())
    };
    let all = ["ca.crt", "client.cert", "client.key"];
    check(&all, "secret").unwrap();
    let error = check(&all, "wrong").unwrap_err();
    assert!(matches!(error, RegistryError::LoginRefused { .. }), "{error:?}");
    // The registry ends the handshake; when that is noticed is up to the machine.
    let error = check(&["ca.crt"], "secret").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    // Without a word on authorities any certificate will do on loopback, but not any client.
    let error = check(&[], "secret").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}

#[test]
fn an_authority_that_is_named_for_a_host_is_the_measure_for_it_on_loopback_too() {
    let (Some(registry), Some(other)) = (DockerRegistry::start_tls(), DockerRegistry::start_secured()) else {
        return;
    };
    let server = Server::parse(&registry.host);
    // Whoever answers on loopback is taken for it, without a word on authorities.
    client(&[]).check_login(&server, &login("x"), &cancel()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/docker/certs.d").join(&registry.host);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(other.certificates.as_ref().unwrap().path().join("ca.crt"), folder.join("ca.crt")).unwrap();
    let strict = Registry::new(config(&home)).unwrap();
    let error = strict.check_login(&server, &login("x"), &cancel()).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("certificates"), "{error:?}");
    let lax = Registry::new(config(&home).verify(Verify::None)).unwrap();
    lax.check_login(&server, &login("x"), &cancel()).unwrap();
}

#[test]
fn images_go_to_and_from_a_secured_registry_with_a_login_that_was_kept() {
    let Some(registry) = DockerRegistry::start_secured() else { return };
    let home = home(&registry, &["ca.crt", "client.cert", "client.key"]);
    let name: ImageRef = format!("{}/me/app:1", registry.host).parse().unwrap();
    let stranger = Registry::new(config(&home)).unwrap();
    let error = stranger.push_to(&name, &cancel()).unwrap().manifest("1", MANIFEST, b"{}").unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { had_credentials: false, .. }), "{error:?}");

    let server = Server::parse(&registry.host);
    config(&home).keep_login(&server, &login("secret"), &cancel()).unwrap();
    let known = Registry::new(config(&home)).unwrap();
    let push = known.push_to(&name, &cancel()).unwrap();
    let image = Image::new("amd64");
    let blob = |bytes: &[u8]| {
        let owned = bytes.to_vec();
        PushBlob {
            digest: kiln_image::Digest::of(bytes),
            size: bytes.len() as u64,
            mount_from: Vec::new(),
            open: Box::new(move || Ok(Box::new(std::io::Cursor::new(owned.clone())))),
            told: Arc::new(|_| {}),
        }
    };
    push.blobs(&[blob(&image.config), blob(&image.layer)]).unwrap();
    push.manifest("1", MANIFEST, &image.manifest).unwrap();
    let resolved = known.resolve(&name, &platform("linux/amd64"), &cancel()).unwrap();
    assert_eq!(resolved.config_bytes, image.config);

    // Given on the command line, it goes before what is kept.
    let certificates = registry.certificates.as_ref().unwrap().path();
    let other = tempfile::tempdir().unwrap();
    let given = config(&other).certificate_dir(certificates).login(login("secret")).verify(Verify::All);
    Registry::new(given).unwrap().resolve(&name, &platform("linux/amd64"), &cancel()).unwrap();
}
