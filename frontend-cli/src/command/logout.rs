//! `kiln logout`.

use std::sync::atomic::AtomicBool;

use kiln::Server;

use crate::args::LogoutArgs;
use crate::report::Failure;

pub(super) fn run(args: &LogoutArgs) -> Result<u8, Failure> {
    let authfile = args.authfile.clone().or_else(|| args.compat_auth_file.clone());
    let registry = crate::args::registry::RegistryArgs { authfile, ..Default::default() };
    let config = registry.config()?;
    let server = args.server.as_deref().map_or_else(Server::docker_hub, Server::parse);
    let was_there = config.forget_login(&server, &AtomicBool::new(false)).map_err(kiln::Error::from)?;
    super::print(&match was_there {
        true => format!("Removing login credentials for {server}\n"),
        false => format!("Not logged in to {server}\n"),
    })?;
    Ok(0)
}
