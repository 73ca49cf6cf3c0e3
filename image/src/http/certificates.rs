//! Certificates for single hosts: `certs.d` as docker and podman have it (containers-certs.d(5)).
//!
//! `<directory>/<host[:port]>/` holds authorities (`*.crt`), whose word counts for that host beside the system's, and the
//! client's own certificates (`*.cert` with a `*.key` beside). The first directory that has a folder for a host counts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

use super::HttpError;
use super::url::Origin;

/// Longest certificate file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where certificates are looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertificateDirs {
    /// With a folder for each host.
    by_host: Vec<PathBuf>,
    /// In place of these: one folder for whatever host.
    only: Option<PathBuf>,
    /// In place of these: single files for whatever host.
    files: Option<CertificateFiles>,
}

/// Certificates named one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) authority: Option<PathBuf>,
    /// A client's certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// What a folder holds.
#[derive(Clone, Debug)]
pub(crate) struct HostCertificates {
    pub(crate) authorities: Vec<Certificate<'static>>,
    pub(crate) client: Option<ClientCert>,
}

impl CertificateDirs {
    /// The user's folders, then the system's, podman's before docker's.
    pub(crate) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = get("XDG_CONFIG_HOME").or_else(|| get("HOME").map(|home| home.join(".config")));
        let users = user
            .iter()
            .flat_map(|user| [user.join("containers/certs.d"), user.join("docker/certs.d")].into_iter());
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        Self { by_host: users.chain(system).collect(), ..Self::default() }
    }

    /// One folder for all hosts.
    pub(crate) fn only(directory: PathBuf) -> Self {
        Self { only: Some(directory), ..Self::default() }
    }

    /// These files for all hosts.
    pub(crate) fn files(files: CertificateFiles) -> Self {
        Self { files: Some(files), ..Self::default() }
    }

    /// The certificates for a server, if there are any of its own.
    pub(crate) fn find(&self, origin: &Origin) -> Result<Option<HostCertificates>, HttpError> {
        if let Some(files) = &self.files {
            return files.read();
        }
        if let Some(directory) = &self.only {
            return read(directory);
        }
        let with_port = format!("{}:{}", origin.host, origin.port);
        let names = [Some(with_port.as_str()), (origin.port == 443).then_some(origin.host.as_str())];
        for directory in &self.by_host {
            for name in names.into_iter().flatten() {
                if let Some(found) = read(&directory.join(name))? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<Option<HostCertificates>, HttpError> {
        let authorities = self.authority.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let client = self.client.as_ref().map(|(certificate, key)| client(certificate, key)).transpose()?;
        Ok((!authorities.is_empty() || client.is_some()).then_some(HostCertificates { authorities, client }))
    }
}

fn read(directory: &Path) -> Result<Option<HostCertificates>, HttpError> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(None) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = HostCertificates { authorities: Vec::new(), client: None };
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.extend(certificates(&path)?),
            // Of several the first counts: one is all that a handshake can name.
            Some("cert") if found.client.is_none() => {
                let key = path.with_extension("key");
                let missing = |_| invalid(&path, format!("there is no {} beside it", key.display()));
                std::fs::metadata(&key).map_err(missing)?;
                found.client = Some(client(&path, &key)?);
            }
            _ => {}
        }
    }
    Ok((!found.authorities.is_empty() || found.client.is_some()).then_some(found))
}

fn client(certificate: &Path, key: &Path) -> Result<ClientCert, HttpError> {
    let private = PrivateKey::from_pem(&bytes(key)?)
        .map_err(|_| invalid(key, "it holds no private key in PEM form".into()))?;
    Ok(ClientCert::new_with_certs(&certificates(certificate)?, private))
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, HttpError> {
    let bytes = bytes(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(invalid(path, "it is damaged".into())),
        }
    }
    match found.is_empty() {
        true => Err(invalid(path, "it holds no certificate in PEM form".into())),
        false => Ok(found),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| invalid(path, error.to_string()))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|error| invalid(path, error.to_string()))?;
    Ok(bytes)
}

fn invalid(path: &Path, reason: String) -> HttpError {
    HttpError::InvalidCertificate { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Url;

    fn origin(url: &str) -> Origin {
        Url::parse(url).unwrap().origin().clone()
    }

    #[test]
    fn a_hosts_folder_is_named_with_its_port_and_one_without_certificates_is_none() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/containers/certs.d/h:5000");
        std::fs::create_dir_all(&folder).unwrap();
        let text = home.path().to_str().unwrap().to_owned();
        let dirs = CertificateDirs::from_env(&|name| (name == "HOME").then(|| text.clone()));
        assert!(dirs.find(&origin("https://h:5000/")).unwrap().is_none());
        std::fs::write(folder.join("ca.crt"), "no certificate").unwrap();
        let error = dirs.find(&origin("https://h:5000/")).unwrap_err().to_string();
        insta::assert_snapshot!(error.replace(&text, "~"), @"~/.config/containers/certs.d/h:5000/ca.crt: it holds no certificate in PEM form");
        assert!(dirs.find(&origin("https://h:5001/")).unwrap().is_none());
        std::fs::remove_file(folder.join("ca.crt")).unwrap();
        std::fs::write(folder.join("client.cert"), "").unwrap();
        let error = dirs.find(&origin("https://h:5000/")).unwrap_err().to_string();
        insta::assert_snapshot!(error.replace(&text, "~"), @"~/.config/containers/certs.d/h:5000/client.cert: there is no ~/.config/containers/certs.d/h:5000/client.key beside it");
    }
}
