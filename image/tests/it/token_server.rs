//! A registry whose tokens come from another server, which is trusted in its own way.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_image::ImageRef;
use kiln_image::registry::{Registry, RegistryConfig, Server as Named, TokenServer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};

use crate::support::{Image, MANIFEST, Server, cancel, platform, reply};

/// `ca.crt`, and `server` and `client` of that authority's.
fn certificates() -> tempfile::TempDir {
    let made = tempfile::tempdir().unwrap();
    let openssl = |line: &str| {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(made.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -days 2 -subj /CN=kiln-test-ca -keyout ca.key -out ca.crt"));
    for name in ["server", "client"] {
        let names = format!("-subj /CN={name} -addext subjectAltName=IP:127.0.0.1,DNS:{name}");
        openssl(&format!("req {key} {names} -keyout {name}.key -out {name}.csr"));
        let sign = "-CA ca.crt -CAkey ca.key -copy_extensions copy -days 2";
        openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.crt"));
    }
    made
}

/// Gives the token `t` to clients with a certificate of the authority's.
fn token_server(certificates: &Path) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = |name: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(certificates.join(name)).unwrap().map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain("ca.crt"));
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            chain("server.crt"),
            PrivateKeyDer::from_pem_file(certificates.join("server.key")).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = Stream::new(&mut connection, &mut stream);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && matches!(tls.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let _ = tls.write_all(&reply("200 OK", &[], br#"{"token":"t"}"#));
            let _ = tls.flush();
        }
    });
    address
}

#[test]
fn a_token_server_is_trusted_as_it_is_said_for_its_registry() {
    let made = certificates();
    let at = |name: &str| made.path().join(name);
    let tokens = token_server(made.path());
    let image = Image::new("amd64");
    let registry = Server::start(move |seen| {
        let realm = format!("Bearer realm=\"https://{tokens}/token\"");
        match seen.header("authorization") {
            Some("Bearer t") if seen.path.contains("/manifests/") => {
                reply("200 OK", &[("Content-Type", MANIFEST)], &image.manifest)
            }
            Some("Bearer t") => reply("200 OK", &[], &image.config),
            _ => reply("401 Unauthorized", &[("WWW-Authenticate", &realm)], b""),
        }
    });
    let name: ImageRef = format!("{}/app:1", registry.address).parse().unwrap();
    let resolves = |host: &str, trust: TokenServer| {
        let config = RegistryConfig::load(&|_| None).unwrap().token_server(&Named::parse(host), trust);
        Registry::new(config).unwrap().resolve(&name, &platform("linux/amd64"), &cancel()).is_ok()
    };
    let host = registry.address.to_string();
    let client = Some((at("client.crt"), at("client.key")));
    let authority = Some(at("ca.crt"));
    let trusted = TokenServer { authority, client, ..TokenServer::default() };
    assert!(resolves(&host, trusted.clone()));
    assert!(resolves(&host, TokenServer { insecure: true, authority: None, ..trusted.clone() }));
    assert!(!resolves(&host, TokenServer { client: None, ..trusted.clone() }));
    assert!(!resolves(&host, TokenServer { authority: None, ..trusted.clone() }));
    // What is said of one registry's is not of another's.
    assert!(!resolves("r.example", trusted));
}
