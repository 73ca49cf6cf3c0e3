//! Where results go, looked at before there are any: nobody wants to hear at the end of a long build that a directory is missing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::Error;

/// Refuses what [`write_whole`](crate::write_whole) could not write to.
///
/// # Errors
/// `dest` is a directory; the directory that it would be in is missing or may not be written.
pub fn check_file(dest: &Path) -> Result<(), Error> {
    match fs::metadata(dest) {
        Ok(found) if found.is_dir() => {
            Err(Error::user(format!("{} is a directory, where a file is to be written", dest.display()))
                .hinted("name a file in it"))
        }
        // A pipe or a device is written as it is.
        Ok(found) if !found.is_file() => Ok(()),
        _ => {
            let target = fs::canonicalize(dest);
            let folder = folder_of(target.as_deref().unwrap_or(dest));
            match fs::metadata(folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::user(format!(
                    "{}: there is no directory {}",
                    dest.display(),
                    folder.display()
                ))
                .hinted(format!("make it first: mkdir -p {}", folder.display()))),
                _ => check_folder(folder),
            }
        }
    }
}

/// Refuses what no directory with files can be made of.
///
/// # Errors
/// `dest`, or one of the directories that it is in, is something else or may not be written.
pub(crate) fn check_directory(dest: &Path) -> Result<(), Error> {
    let is_there = |path: &&Path| fs::symlink_metadata(path).is_ok();
    check_folder(dest.ancestors().find(is_there).unwrap_or(Path::new(".")))
}

/// The directory that the file `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_folder(folder: &Path) -> Result<(), Error> {
    let at = |error| Error::io(folder, error);
    if !fs::metadata(folder).map_err(at)?.is_dir() {
        return Err(Error::user(format!(
            "{} is a file, where a directory is to be written",
            folder.display()
        )));
    }
    // This process has no other rights than whoever started it, so that the old call without flags will do.
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
        .map_err(|error| at(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_be_written_where_there_is_none_or_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        check_file(&file).unwrap();
        fs::write(&file, "").unwrap();
        check_file(&file).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        check_file(&link).unwrap();
        check_file(Path::new("/dev/null")).unwrap();
        assert_eq!(folder_of(Path::new("in-this-directory")), Path::new("."));
        for (wrong, says) in [
            (folder.path().to_owned(), "is a directory"),
            (folder.path().join("none/file"), "there is no directory"),
            (file.join("below"), "is a file"),
        ] {
            let error = check_file(&wrong).unwrap_err();
            assert!(error.message.contains(says), "{error:?}");
        }
    }

    #[test]
    fn a_directory_can_be_made_below_directories_only() {
        let folder = tempfile::tempdir().unwrap();
        check_directory(folder.path()).unwrap();
        check_directory(&folder.path().join("a/b")).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for wrong in [file.clone(), file.join("below")] {
            let error = check_directory(&wrong).unwrap_err();
            assert!(error.message.contains("is a file"), "{error:?}");
        }
    }

    #[test]
    fn who_may_not_write_there_is_told() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let answers =
            [check_file(&folder.path().join("file")), check_directory(&folder.path().join("directory"))];
        for answer in answers {
            match answer {
                // Root may everywhere.
                Ok(()) => assert!(kiln_fixtures::is_root()),
                Err(error) => assert!(error.message.contains("Permission denied"), "{error:?}"),
            }
        }
    }
}
