//! `kiln login`.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln::{Kept, Login, Registry, RegistryConfig, Server};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::args::LoginArgs;
use crate::cancel::INTERRUPTED;
use crate::report::Failure;

/// The longest password that is read from standard input.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

pub(super) fn run(args: &LoginArgs) -> Result<u8, Failure> {
    let mut config = args.registry.config()?;
    if let Some(path) = &args.compat_auth_file {
        config = config.auth_file(path).map_err(kiln::Error::from)?;
    }
    let server = args.server.as_deref().map_or_else(Server::docker_hub, Server::parse);
    let cancel = Arc::new(AtomicBool::new(false));
    if args.get_login {
        let kept = config.kept_login(&server, &cancel).map_err(kiln::Error::from)?;
        let kept = kept.ok_or_else(|| Failure::usage(format!("not logged in to {server}")))?;
        super::print(&format!("{}\n", kept.username))?;
        return Ok(0);
    }
    let login = match given(args)? {
        Some(login) => login,
        None => {
            let kept = config.kept_login(&server, &cancel).map_err(kiln::Error::from)?;
            match kept.filter(|kept| args.username.as_ref().is_none_or(|name| *name == kept.username)) {
                Some(kept) => {
                    say("Authenticating with existing credentials...");
                    kept
                }
                None => ask(args.username.clone())?,
            }
        }
    };
    let registry = Registry::new(config.clone()).map_err(kiln::Error::from)?;
    registry.check_login(&server, &login, &cancel).map_err(kiln::Error::from)?;
    keep(&config, &server, &login, &cancel)?;
    super::print("Login Succeeded\n")?;
    Ok(0)
}

/// The login of the command line.
fn given(args: &LoginArgs) -> Result<Option<Login>, Failure> {
    let password = match (&args.password, args.password_stdin) {
        (Some(_), true) => {
            return Err(Failure::usage("--password and --password-stdin are mutually exclusive"));
        }
        (Some(password), false) => {
            say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        (None, true) => {
            if args.username.is_none() {
                return Err(Failure::usage("Must provide --username with --password-stdin"));
            }
            let mut password = String::new();
            let read = std::io::stdin().take(MAX_PASSWORD_BYTES).read_to_string(&mut password);
            read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
            password.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => return Ok(None),
    };
    match &args.username {
        Some(username) => Ok(Some(Login { username: username.clone(), password })),
        None => Err(Failure::usage("Must provide --username with --password")),
    }
}

/// Asks the user, who sits at a terminal.
fn ask(username: Option<String>) -> Result<Login, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("cannot ask for a login: standard input is no terminal")
            .with_hint("give the password there, with `-u USER --password-stdin`"));
    }
    let username = match username {
        Some(username) => username,
        None => answer("Username: ")?,
    };
    let password = {
        let _hidden = Hidden::start();
        answer("Password: ")?
    };
    say("");
    if username.is_empty() || password.is_empty() {
        return Err(Failure::usage("a user name and a password are needed"));
    }
    Ok(Login { username, password })
}

fn answer(question: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("standard input: {error}"));
    let mut err = std::io::stderr().lock();
    err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal does not show what is typed; it does again when this is dropped, or at Ctrl-C.
struct Hidden(Option<Termios>);

impl Hidden {
    fn start() -> Self {
        let Ok(before) = tcgetattr(std::io::stdin()) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent);
        let restored = before.clone();
        crate::cancel::on_signal(move || {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &restored);
            std::process::exit(i32::from(INTERRUPTED));
        });
        Self(Some(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn keep(config: &RegistryConfig, server: &Server, login: &Login, cancel: &AtomicBool) -> Result<(), Failure> {
    let kept = config.keep_login(server, login, cancel).map_err(kiln::Error::from)?;
    if let Kept::File(path) = kept {
        say(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            path.display()
        ));
    }
    Ok(())
}

/// To the user, past what scripts read.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
