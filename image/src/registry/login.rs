//! Logging in and out: does the registry take a login, and where is it kept (docker's `config.json`, or a credential
//! helper that this file names).

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use serde::Serialize as _;
use serde_json::{Map, Value, json};
use ureq::http::Method;

use super::auth::Grant;
use super::client::{Call, Client};
use super::config::{RegistryConfig, read_optional};
use super::credentials::{CredentialStore, Credentials, Secret, TOKEN_USER, normal_key, server_key};
use super::{Registry, RegistryError};
use crate::ImageRef;

/// Who the user is to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name; `<token>` where the password is an identity token (OAuth2's refresh token).
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

impl From<Login> for Credentials {
    fn from(Login { username, password }: Login) -> Self {
        match username.as_str() {
            TOKEN_USER => Self::IdentityToken(Secret(password)),
            _ => Self::Basic { username, password: Secret(password) },
        }
    }
}

/// A registry as `login` names it: Docker Hub's many names are one, and an address is its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(String);

impl Server {
    /// Docker Hub.
    pub fn docker_hub() -> Self {
        Self("docker.io".into())
    }

    /// Reads `host[:port]`, or an address whose host it is.
    pub fn parse(text: &str) -> Self {
        let name = normal_key(text);
        Self(name.split('/').next().unwrap_or_default().to_owned())
    }

    /// The host and port; `docker.io` for Docker Hub.
    pub fn host(&self) -> &str {
        &self.0
    }
}

/// As docker shows it: the key of its files.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::oci::escape(server_key(&self.0)))
    }
}

/// Where a login was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// By `docker-credential-<name>`.
    Helper(String),
    /// In this file, for everybody to read who can read it.
    File(PathBuf),
}

impl Registry {
    /// Asks a registry whether it takes `login` (`GET /v2/`).
    ///
    /// # Errors
    /// [`RegistryError::LoginRefused`] if not; see [`RegistryError`].
    pub fn check_login(
        &self,
        server: &Server,
        login: &Login,
        cancel: &AtomicBool,
    ) -> Result<(), RegistryError> {
        let mut config = self.client.config.clone();
        config.credentials = CredentialStore::only(login.clone().into());
        let endpoint = config.registries.mirrors()?.server(server.host());
        // Errors are about images elsewhere: a name is needed for them, and not shown.
        let image: ImageRef = format!("{}/login", server.host())
            .parse()
            .map_err(|_| RegistryError::NotARegistry { host: crate::oci::escape(server.host()) })?;
        let call =
            Call { method: Method::GET, what: "", headers: &[], body: Arc::default(), grant: Grant::Login };
        match Client::new(config).call(&endpoint, &image, &call, cancel) {
            Ok(_) => Ok(()),
            Err(RegistryError::Unauthorized { host, detail, .. }) => {
                Err(RegistryError::LoginRefused { host, detail })
            }
            Err(RegistryError::NotFound { .. }) => Err(RegistryError::NotARegistry { host: endpoint.host }),
            Err(error) => Err(error),
        }
    }
}

impl RegistryConfig {
    /// The login that is kept for a registry.
    ///
    /// # Errors
    /// A helper failed.
    pub fn kept_login(&self, server: &Server, cancel: &AtomicBool) -> Result<Option<Login>, RegistryError> {
        Ok(self.credentials.find(server.host(), "", cancel)?.map(|found| match found {
            Credentials::Basic { username, password } => Login { username, password: password.0 },
            Credentials::IdentityToken(token) => Login { username: TOKEN_USER.into(), password: token.0 },
        }))
    }

    /// Keeps a login: with the helper that the file names for the registry or for all, else in the file itself.
    ///
    /// # Errors
    /// The helper failed; the file cannot be read or written.
    pub fn keep_login(
        &self,
        server: &Server,
        login: &Login,
        cancel: &AtomicBool,
    ) -> Result<Kept, RegistryError> {
        let mut file = File::read(&self.credentials)?;
        let key = server_key(server.host());
        let helper = file.helper(server);
        let entry = match &helper {
            Some(helper) => {
                let secret = json!({"ServerURL": key, "Username": login.username, "Secret": login.password});
                self.credentials.run_helper(helper, "store", secret.to_string().as_bytes(), cancel)?;
                json!({})
            }
            None if login.username == TOKEN_USER => json!({ "identitytoken": login.password }),
            None => {
                let pair = format!("{}:{}", login.username, login.password);
                json!({ "auth": base64::prelude::BASE64_STANDARD.encode(pair) })
            }
        };
        file.forget(server);
        file.section("auths").insert(key.to_owned(), entry);
        file.write()?;
        Ok(helper.map_or(Kept::File(file.path), Kept::Helper))
    }

    /// Forgets the login for a registry; `false` when there was none.
    ///
    /// # Errors
    /// The helper failed; the file cannot be read or written.
    pub fn forget_login(&self, server: &Server, cancel: &AtomicBool) -> Result<bool, RegistryError> {
        let mut file = File::read(&self.credentials)?;
        let helper = file.helper(server);
        let was_there = file.forget(server);
        if let Some(helper) = &helper {
            let erased =
                self.credentials.run_helper(helper, "erase", server_key(server.host()).as_bytes(), cancel);
            // Helpers differ on whether it is a failure that nothing was there.
            match erased {
                Err(error) if was_there => return Err(error),
                _ => {}
            }
        }
        if was_there {
            file.write()?;
        }
        Ok(was_there)
    }
}

/// docker's `config.json`, with all that kiln knows nothing of.
struct File {
    path: PathBuf,
    document: Map<String, Value>,
}

impl File {
    fn read(store: &CredentialStore) -> Result<Self, RegistryError> {
        let path = store.target().ok_or_else(|| RegistryError::InvalidConfig {
            path: PathBuf::from("config.json"),
            reason: "neither HOME nor DOCKER_CONFIG says where it is".into(),
        })?;
        let document = match read_optional(path)?.filter(|text| !text.trim().is_empty()) {
            Some(text) => serde_json::from_str(&text).map_err(|error| RegistryError::InvalidConfig {
                path: path.to_owned(),
                reason: format!(
                    "not a JSON object, line {} column {}; it was not changed",
                    error.line(),
                    error.column()
                ),
            })?,
            None => Map::new(),
        };
        Ok(Self { path: path.to_owned(), document })
    }

    /// The helper for the registry.
    fn helper(&self, server: &Server) -> Option<String> {
        let own = self.document.get("credHelpers").and_then(Value::as_object).and_then(|helpers| {
            helpers.iter().find(|(key, _)| normal_key(key) == server.host()).map(|(_, helper)| helper)
        });
        let helper = own.or_else(|| self.document.get("credsStore"))?.as_str()?;
        (!helper.is_empty()).then(|| helper.to_owned())
    }

    /// Removes the registry's entry, under whatever spelling.
    fn forget(&mut self, server: &Server) -> bool {
        let Some(auths) = self.document.get_mut("auths").and_then(Value::as_object_mut) else { return false };
        let before = auths.len();
        auths.retain(|key, _| normal_key(key) != server.host());
        auths.len() < before
    }

    fn section(&mut self, name: &str) -> &mut Map<String, Value> {
        let section = self.document.entry(name).or_insert_with(|| json!({}));
        if !section.is_object() {
            *section = json!({});
        }
        // It was made one just now.
        section.as_object_mut().expect("a section is an object")
    }

    /// Writes the file beside its place, for its owner only, and renames it there: readers see all or nothing.
    fn write(&self) -> Result<(), RegistryError> {
        // A file that is a link (to where dotfiles are kept) stays one.
        let place = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let at = |source| RegistryError::Write { path: place.clone(), source };
        let directory = place.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let mut text = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, form);
        self.document.serialize(&mut serializer).map_err(io::Error::from).map_err(at)?;
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(at)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(at)?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(at)?;
        file.persist(&place).map_err(|error| at(error.error)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str) -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            if !config.is_empty() {
                std::fs::create_dir_all(home.0.path().join(".docker")).unwrap();
                std::fs::write(home.path(), config).unwrap();
            }
            home
        }

        fn path(&self) -> PathBuf {
            self.0.path().join(".docker/config.json")
        }

        fn config(&self) -> RegistryConfig {
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            RegistryConfig::load(&|name| match name {
                "HOME" | "PATH" => Some(text(self.0.path())),
                _ => None,
            })
            .unwrap()
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.path()).unwrap()
        }
    }

    fn login(password: &str) -> Login {
        Login { username: "me".into(), password: password.into() }
    }

    fn cancel() -> AtomicBool {
        AtomicBool::new(false)
    }

    #[test]
    fn a_login_is_kept_for_its_owner_only_and_the_rest_of_the_file_stays() {
        let home = Home::new(
            r#"{"psFormat":"table","auths":{"https://h:5000/v2/":{"auth":"eDp5"},"o.io":{"auth":"eDp5"}},"x":[1]}"#,
        );
        let server = Server::parse("https://h:5000/v1/");
        let kept = home.config().keep_login(&server, &login("pw:1"), &cancel()).unwrap();
        assert_eq!(kept, Kept::File(home.path()));
        insta::assert_snapshot!(home.text().replace('\t', "  "), @r#"
        {
          "psFormat": "table",
          "auths": {
            "o.io": {
              "auth": "eDp5"
            },
            "h:5000": {
              "auth": "bWU6cHc6MQ=="
            }
          },
          "x": [
            1
          ]
        }
        "#);
        assert_eq!(home.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(home.config().kept_login(&server, &cancel()).unwrap(), Some(login("pw:1")));
        assert!(home.config().forget_login(&server, &cancel()).unwrap());
        assert!(!home.config().forget_login(&server, &cancel()).unwrap());
        assert_eq!(home.config().kept_login(&server, &cancel()).unwrap(), None);
        assert!(home.text().contains("psFormat") && home.text().contains("o.io"));
        assert!(!format!("{:?}", login("CANARY")).contains("CANARY"));
    }

    #[test]
    fn docker_hub_is_kept_under_its_old_address_in_a_new_folder() {
        let home = Home::new("");
        for name in ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(Server::parse(name), Server::docker_hub(), "{name}");
        }
        home.config().keep_login(&Server::docker_hub(), &login("pw"), &cancel()).unwrap();
        assert!(home.text().contains("https://index.docker.io/v1/"));
        assert_eq!(home.path().parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_helper_keeps_the_secret_and_the_file_does_not() {
        let home = Home::new(r#"{"credHelpers":{"h.io":"test"}}"#);
        let program = home.0.path().join("docker-credential-test");
        let log = home.0.path().join("log");
        let script = format!("#!/bin/sh\n{{ printf '%s ' $1; /bin/cat; echo; }} >> {}\n", log.display());
        kiln_fixtures::script(&program, &script);
        let server = Server::parse("h.io");
        let kept = home.config().keep_login(&server, &login("CANARY"), &cancel()).unwrap();
        assert_eq!(kept, Kept::Helper("test".into()));
        assert!(!home.text().contains("CANARY"));
        assert!(home.config().forget_login(&server, &cancel()).unwrap());
        insta::assert_snapshot!(std::fs::read_to_string(log).unwrap(), @r#"
        store {"ServerURL":"h.io","Username":"me","Secret":"CANARY"}
        erase h.io
        "#);
    }

    #[test]
    fn a_broken_file_is_left_as_it_is() {
        let home = Home::new("{}");
        let config = home.config();
        std::fs::write(home.path(), "{\"auths\":{CANARY}").unwrap();
        let error = config.keep_login(&Server::docker_hub(), &login("x"), &cancel()).unwrap_err().to_string();
        let error = error.replace(home.0.path().to_str().unwrap(), "~");
        insta::assert_snapshot!(error, @r"
        ~/.docker/config.json: not a JSON object, line 1 column 11; it was not changed
        ");
        assert_eq!(home.text(), "{\"auths\":{CANARY}");
    }
}
