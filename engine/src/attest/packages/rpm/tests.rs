//! Databases that rpm and Berkeley DB's `db_load` make here.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::*;

/// So many packages have several pages, of several levels.
const PACKAGES: usize = 60;

/// A database of rpm's, and what rpm itself says is in it.
struct Made {
    database: Vec<u8>,
    packages: Vec<String>,
}

/// `None`, and a printed reason, where there is no rpm.
fn made() -> Option<&'static Made> {
    static MADE: OnceLock<Option<Made>> = OnceLock::new();
    MADE.get_or_init(|| {
        if Command::new("rpmbuild").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "rpm is not installed");
            eprintln!("skipped: this test needs rpm");
            return None;
        }
        Some(make())
    })
    .as_ref()
}

fn make() -> Made {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = "Name: sample\nEpoch: 2\nVersion: 1.4\nRelease: 3\nSummary: one\nLicense: MIT\nVendor: Some Project\n\
                    URL: https://example.com/\nBuildArch: noarch\n%description\nshort\n%files\n"
        .to_owned();
    for number in 0..PACKAGES {
        // Some run over into other pages, one into many.
        let description = "some long words \n".repeat(number * number);
        let package = format!(
            "-n p{number}\nSummary: one\n%description -n p{number}\n{description}\n%files -n p{number}\n"
        );
        spec.push_str(&format!("%package {}", package.replacen("one\n", "one\nLicense: LGPLv2+\n", 1)));
    }
    std::fs::write(folder.path().join("sample.spec"), spec).unwrap();
    let run = |line: &str| {
        let mut command = Command::new("sh");
        let output =
            command.args(["-c", line]).current_dir(&folder).env("HOME", folder.path()).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run("rpmbuild -bb --define \"_topdir $PWD/top\" --define '_binary_payload w0.ufdio' sample.spec");
    let rpm = "rpm --dbpath $PWD/db --define '_db_backend sqlite'";
    run(&format!("{rpm} -i --justdb --nodeps --nosignature top/RPMS/noarch/*.rpm"));
    let fields =
        "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{ARCH} (%{LICENSE}) %{VENDOR} %{SOURCERPM}\\n";
    let mut packages: Vec<_> =
        run(&format!("{rpm} -qa --qf '{fields}'")).lines().map(str::to_owned).collect();
    packages.sort();
    Made { database: std::fs::read(folder.path().join("db/rpmdb.sqlite")).unwrap(), packages }
}

fn shown(bytes: &[u8]) -> Vec<String> {
    let mut shown: Vec<_> = read(bytes)
        .unwrap()
        .iter()
        .map(|one| {
            let of = |field: &Option<String>| field.clone().unwrap_or_default();
            let (arch, license, source) = (of(&one.architecture), of(&one.license), of(&one.source));
            format!("{} {} {arch} ({license}) {} {source}", one.name, one.version, of(&one.supplier))
        })
        .collect();
    shown.sort();
    shown
}

/// The headers in a SQLite database.
fn headers(database: &[u8]) -> Vec<Vec<u8>> {
    let mut headers = Vec::new();
    sqlite::read(database, &mut |blob| {
        headers.push(blob.to_vec());
        Ok(())
    })
    .unwrap();
    headers
}

/// An `ndb` of these headers: a page of slots, then the packages.
fn ndb_of(headers: &[Vec<u8>]) -> Vec<u8> {
    let mut slots = [&b"RpmP"[..], &[0; 8], &1u32.to_le_bytes(), &[0; 16]].concat();
    let mut blobs = Vec::new();
    for (number, header) in (1u32..).zip(headers) {
        let block = u32::try_from((4096 + blobs.len()) / 16).unwrap();
        slots.extend([&b"Slot"[..], &number.to_le_bytes(), &block.to_le_bytes(), &[0; 4]].concat());
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        blobs.extend([&b"BlbS"[..], &number.to_le_bytes(), &[0; 4], &length, header].concat());
        blobs.resize(blobs.len().next_multiple_of(16), 0);
    }
    while slots.len() < 4096 {
        slots.extend([&b"Slot"[..], &[0; 12]].concat());
    }
    [slots, blobs].concat()
}

/// A hash of Berkeley DB's of these headers, and the counter that rpm has among them.
fn berkeley_of(headers: &[Vec<u8>]) -> Option<Vec<u8>> {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Packages");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut text = "VERSION=3\nformat=bytevalue\ntype=hash\nHEADER=END\n 00000000\n 05000000\n".to_owned();
    for (number, header) in (1u32..).zip(headers) {
        text.push_str(&format!(" {}\n {}\n", hex(&number.to_le_bytes()), hex(header)));
    }
    text.push_str("DATA=END\n");
    let started = Command::new("db_load").arg(&path).stdin(std::process::Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        assert!(std::env::var_os("CI").is_none(), "db-util is not installed");
        eprintln!("skipped: this test needs db_load");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    Some(std::fs::read(path).unwrap())
}

#[test]
fn packages_are_what_rpm_says_they_are_in_all_three_formats() {
    let Some(made) = made() else { return };
    assert_eq!(made.packages.len(), PACKAGES + 1);
    assert_eq!(shown(&made.database), made.packages);
    let headers = headers(&made.database);
    assert_eq!(shown(&ndb_of(&headers)), made.packages);
    let Some(database) = berkeley_of(&headers) else { return };
    assert_eq!(shown(&database), made.packages);
}

#[test]
fn a_damaged_database_is_an_error_or_has_other_packages() {
    let Some(made) = made() else { return };
    let headers = headers(&made.database);
    let databases = [Some(made.database.clone()), Some(ndb_of(&headers)), berkeley_of(&headers)];
    let mut errors = 0;
    // Any numbers, the same ones each time (Knuth, 3.3.4, line 26).
    let mut state = 1u64;
    let mut next = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    for database in databases.into_iter().flatten() {
        for _ in 0..300 {
            let mut bytes = database.clone();
            for _ in 0..=next(8) {
                // Most of what leads elsewhere stands at the beginning of pages.
                let page = next(bytes.len()) & !0xfff;
                let within = if next(2) == 0 { 64 } else { 4096 };
                let at = (page + next(within)).min(bytes.len() - 1);
                bytes[at] = u8::try_from(next(256)).unwrap();
            }
            bytes.truncate(bytes.len() - if next(4) == 0 { next(bytes.len()) } else { 0 });
            errors += usize::from(read(&bytes).is_err());
        }
    }
    assert!(errors > 0);
}

#[test]
fn pages_that_lead_back_to_themselves_are_refused() {
    let Some(made) = made() else { return };
    let page = usize::from(u16::from_be_bytes([made.database[16], made.database[17]]));
    // Each interior page is its own last child.
    let mut bytes = made.database.clone();
    for at in (page..bytes.len()).step_by(page).filter(|at| made.database[*at] == 5) {
        let own = u32::try_from(at / page + 1).unwrap();
        bytes[at + 8..at + 12].copy_from_slice(&own.to_be_bytes());
    }
    assert_eq!(read(&bytes), Err("it contradicts itself"));
    // All packages are one.
    let one = headers(&made.database).swap_remove(0);
    let mut bytes = ndb_of(&[one]);
    for slot in bytes[48..4096].chunks_exact_mut(16) {
        slot[4..8].copy_from_slice(&1u32.to_le_bytes());
        slot[8..12].copy_from_slice(&256u32.to_le_bytes());
    }
    assert_eq!(read(&bytes), Err("it contradicts itself"));
}

#[test]
fn a_file_of_another_kind_is_named_as_that() {
    assert_eq!(read(b"").unwrap(), []);
    assert!(read(b"text").is_err());
    assert!(read(b"RpmP").is_err());
    let mut header = vec![0; 4096];
    header[..16].copy_from_slice(b"SQLite format 3\0");
    assert!(read(&header).is_err());
    for path in ["var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages"] {
        assert!(is_database(Path::new(path)), "{path}");
    }
    for path in ["x/var/lib/rpm/Packages", "var/lib/rpm/Name", "Packages"] {
        assert!(!is_database(Path::new(path)), "{path}");
    }
}

/// What fuzzing begins with.
#[test]
fn databases_of_the_corpus_have_packages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/rpm_database");
    for name in ["sqlite", "ndb", "berkeley"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(shown(&bytes).len(), 2, "{name}");
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let _ = read(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}
