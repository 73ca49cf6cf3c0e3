//! The host's directories in RUN steps: which of them are not given away.

use std::path::Path;

use kiln_solver::graph::Volume;

use crate::Error;

/// Refuses volumes that would give the step's user what is not a build's to give.
pub(crate) fn check(volumes: &[Volume]) -> Result<(), Error> {
    let home = std::env::home_dir();
    for volume in volumes.iter().filter(|volume| volume.of_user) {
        let source = &volume.source;
        // A link, or `..`, may lead anywhere.
        let real = std::fs::canonicalize(source).map_err(|error| Error::io(source, error))?;
        if is_of_the_system(&real, home.as_deref()) {
            let message = format!(
                "--volume {}:{}: `U` would give a directory of the system to the step's user",
                source.display(),
                volume.target
            );
            return Err(Error::user(message)
                .hinted("leave out `U`, or give the step a directory that is there for the build"));
        }
    }
    Ok(())
}

/// Whether a path without links is one that no step's user should come to own: a directory at the top, a part of the
/// system, a home.
fn is_of_the_system(real: &Path, home: Option<&Path>) -> bool {
    const OF_THE_SYSTEM: [&str; 11] =
        ["bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr"];
    let names: Vec<_> = real.iter().skip(1).map(|name| name.to_string_lossy()).collect();
    home == Some(real)
        || match names.as_slice() {
            [] | [_] => true,
            [top, _] if matches!(top.as_ref(), "home" | "var") => true,
            [top, ..] => OF_THE_SYSTEM.contains(&top.as_ref()),
        }
}

#[cfg(test)]
mod tests {
    use kiln_solver::graph::VolumeAccess;

    use super::*;

    fn volume(source: &Path, of_user: bool) -> Volume {
        let access = VolumeAccess::Writable;
        Volume { source: source.to_owned(), target: "/x".to_owned(), access, no_exec: false, of_user }
    }

    #[test]
    fn what_is_of_the_system_is_nobodys_to_give() {
        let home = Some(Path::new("/srv/people/me"));
        for path in ["/", "/tmp", "/etc/ssl", "/usr/lib/x", "/var/lib", "/home/me", "/srv/people/me"] {
            assert!(is_of_the_system(Path::new(path), home), "{path}");
        }
        for path in ["/tmp/x", "/var/lib/x", "/home/me/x", "/srv/people/me/x", "/srv/people"] {
            assert!(!is_of_the_system(Path::new(path), home), "{path}");
        }
    }

    #[test]
    fn a_directory_is_judged_by_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(check(&[volume(folder.path(), true), volume(&link, false)]).is_ok());
        let to_the_top = "../".repeat(folder.path().components().count());
        for source in [link, folder.path().join(to_the_top).join("usr/lib")] {
            let error = check(&[volume(folder.path(), true), volume(&source, true)]).unwrap_err();
            assert_eq!(error.kind, crate::ErrorKind::User);
            assert_eq!(
                error.message,
                format!(
                    "--volume {}:/x: `U` would give a directory of the system to the step's user",
                    source.display()
                )
            );
            assert!(error.hint.is_some());
        }
        assert!(check(&[volume(&folder.path().join("nothing"), true)]).is_err());
    }
}
