//! Files that are there as a whole or not at all: archives, image ids, locks.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::Error;
use crate::destination::folder_of;

/// Writes `bytes` to the file at `dest`, which is replaced when they are all there; a pipe or device is written as it is.
///
/// # Errors
/// I/O. What was there stays then.
pub fn write_whole(dest: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_whole_with(dest, |out| out.write_all(bytes).map_err(|error| Error::io(dest, error)))
}

/// Has `write` write the file at `dest`: beside its place, and renamed there when it is whole, so that readers see the old
/// file or the new one. A pipe or device is written as it is; of a link, the file that it leads to.
///
/// # Errors
/// I/O, and those of `write`. What was there stays then.
pub(crate) fn write_whole_with(
    dest: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let at = |error| Error::io(dest, error);
    // What it is, through all links; an error where there is nothing yet, or nothing to be found out.
    let target = std::fs::canonicalize(dest);
    let dest = target.as_deref().unwrap_or(dest);
    if std::fs::metadata(dest).is_ok_and(|metadata| !metadata.is_file()) {
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(dest).map_err(at)?);
        write(&mut file)?;
        return file.flush().map_err(at);
    }
    let name = dest.file_name().ok_or_else(|| Error::user(format!("{} is no file name", dest.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".kiln-");
    let file = tempfile::Builder::new()
        .prefix(&hidden)
        // Less what the umask says, as any file that a program makes.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder_of(dest))
        .map_err(at)?;
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, file);
    write(&mut buffered)?;
    let file = buffered.into_inner().map_err(|error| at(error.into_error()))?;
    file.persist(dest).map_err(|error| at(error.error))?;
    Ok(())
}

/// As [`write_whole_with`]; `None` is standard output.
pub(crate) fn write_to(
    dest: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(dest) = dest else {
        let mut stdout = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout().lock());
        write(&mut stdout)?;
        return stdout.flush().map_err(|error| Error::io(Path::new("standard output"), error));
    };
    write_whole_with(dest, write)
}

const BUFFER_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(folder: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_in_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("iid");
        std::fs::write(&path, "old and longer").unwrap();
        let failed = write_whole_with(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::user("no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old and longer");
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["iid"]);
    }

    #[test]
    fn others_may_read_it_as_the_umask_says() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_whole(&ours, b"").unwrap();
        std::fs::write(&plain, "").unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_device_is_written_as_it_is_and_a_folder_is_refused() {
        write_whole(Path::new("/dev/null"), b"gone").unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(write_whole(folder.path(), b"").is_err());
        assert!(write_whole(&folder.path().join("none/file"), b"").is_err());
    }
}
