//! Programs of other machines, which an emulator of the host's (qemu's user mode) executes.
//!
//! The kernel hands them to it by its table of formats (binfmt_misc). Where the host has registered a handler that holds
//! its emulator open (flag `F`), nothing has to be done. A handler without that flag executes a path, which is then shown
//! inside. Without a handler the command gets a user namespace of its own, with the same ids, for which an emulator that
//! is on the host is registered (Linux 6.7 and later): the host's table is never changed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, pidfd_send_signal};

use crate::sys;
use crate::userns::find_program;

/// The kernel's table of formats.
const TABLE: &str = "/proc/sys/fs/binfmt_misc";
/// Where an emulator of kiln's own choice is shown inside.
const INSIDE: &str = "/dev/.kiln-emulator";
/// Program headers beyond so many are not looked at.
const MOST_HEADERS: u16 = 64;

/// How programs of another machine are executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Binfmt {
    /// Nothing is to be done: they are this machine's own, or the host's handler holds its emulator open.
    #[default]
    AsIs,
    /// The host's handler executes this file, which is shown inside at the same path.
    Shown(PathBuf),
    /// There is no handler; this emulator is registered for the one sandbox.
    Registered(Emulator),
    /// There is neither a handler nor an emulator that would do; what is executed will fail.
    Missing {
        /// The machine, as OCI names it.
        architecture: String,
    },
}

/// A program of the host's that executes programs of another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    path: PathBuf,
    machine: Machine,
}

/// A kind of machine, as ELF headers name it (elf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    /// OCI's name.
    architecture: &'static str,
    /// qemu's name.
    qemu: &'static str,
    /// `ELFCLASS32` is 1, `ELFCLASS64` 2.
    class: u8,
    /// `ELFDATA2LSB` is 1, `ELFDATA2MSB` 2.
    order: u8,
    /// `EM_*`.
    number: u16,
}

const fn machine(
    architecture: &'static str,
    qemu: &'static str,
    class: u8,
    order: u8,
    number: u16,
) -> Machine {
    Machine { architecture, qemu, class, order, number }
}

const MACHINES: [Machine; 10] = [
    machine("386", "i386", 1, 1, 3),
    machine("amd64", "x86_64", 2, 1, 62),
    machine("arm", "arm", 1, 1, 40),
    machine("arm64", "aarch64", 2, 1, 183),
    machine("loong64", "loongarch64", 2, 1, 258),
    machine("mips64", "mips64", 2, 2, 8),
    machine("mips64le", "mips64el", 2, 1, 8),
    machine("ppc64le", "ppc64le", 2, 1, 21),
    machine("riscv64", "riscv64", 2, 1, 243),
    machine("s390x", "s390x", 2, 2, 22),
];

impl Binfmt {
    /// Finds out how programs for `architecture` (OCI's name, such as `arm64`) are executed on this machine, whose own
    /// is `native`.
    pub fn of(architecture: &str, native: &str) -> Binfmt {
        if architecture == native {
            return Binfmt::AsIs;
        }
        let missing = || Binfmt::Missing { architecture: architecture.to_owned() };
        let Some(machine) = MACHINES.into_iter().find(|machine| machine.architecture == architecture) else {
            return missing();
        };
        if let Some(handler) = Handler::find(Path::new(TABLE), machine) {
            return match handler.is_open {
                true => Binfmt::AsIs,
                false => Binfmt::Shown(handler.interpreter),
            };
        }
        let names = [format!("qemu-{}-static", machine.qemu), format!("qemu-{}", machine.qemu)];
        let found = names.iter().filter_map(|name| find_program(name)).find(|path| is_static(path));
        found.map_or_else(missing, |path| Binfmt::Registered(Emulator { path, machine }))
    }

    /// The file to show inside, and where.
    pub(crate) fn shown(&self) -> Option<(&Path, PathBuf)> {
        match self {
            Self::AsIs | Self::Missing { .. } => None,
            Self::Shown(path) => Some((path, path.clone())),
            Self::Registered(emulator) => Some((&emulator.path, INSIDE.into())),
        }
    }

    /// What is written into the kernel's table (admin-guide/binfmt-misc.rst).
    pub(crate) fn rule(&self) -> Option<Vec<u8>> {
        match self {
            Self::Registered(emulator) => Some(emulator.machine.rule()),
            _ => None,
        }
    }
}

impl Machine {
    /// The beginning of its programs: up to `e_machine`, whose place is after `e_ident` and `e_type`.
    fn magic(self) -> [u8; 20] {
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.class, self.order, 1]);
        let number = |number: u16| if self.order == 1 { number.to_le_bytes() } else { number.to_be_bytes() };
        magic[16..18].copy_from_slice(&number(EXECUTABLE));
        magic[18..].copy_from_slice(&number(self.number));
        magic
    }

    /// What of the beginning counts: not the system's ABI, nor which of the two kinds of program it is.
    fn mask(self) -> [u8; 20] {
        let mut mask = [0xff; 20];
        mask[7] = 0;
        mask[if self.order == 1 { 16 } else { 17 }] = 0xfe;
        mask
    }

    fn rule(self) -> Vec<u8> {
        let escaped = |bytes: [u8; 20]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
        // `F`: opened now, so that it is found from inside any root. `P`: the program sees its own `argv[0]`.
        format!(":kiln-{}:M::{}:{}:{INSIDE}:PF", self.qemu, escaped(self.magic()), escaped(self.mask()))
            .into_bytes()
    }
}

/// `ET_EXEC`; `ET_DYN`, which is 3, differs in the bit that the mask leaves out.
const EXECUTABLE: u16 = 2;

/// A handler that the host has registered.
#[derive(Debug, PartialEq, Eq)]
struct Handler {
    interpreter: PathBuf,
    /// It holds its interpreter open.
    is_open: bool,
}

impl Handler {
    /// Finds one in the table that takes programs of `machine`.
    fn find(table: &Path, machine: Machine) -> Option<Handler> {
        if std::fs::read_to_string(table.join("status")).is_ok_and(|status| status.trim() == "disabled") {
            return None;
        }
        let entries = std::fs::read_dir(table).ok()?.filter_map(Result::ok);
        let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        texts.filter_map(|text| Handler::parse(&text, machine)).next()
    }

    fn parse(text: &str, machine: Machine) -> Option<Handler> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (magic, flags) = (hex(field("magic ")?)?, field("flags:").unwrap_or_default());
        let mask = field("mask ").and_then(hex).unwrap_or_else(|| vec![0xff; magic.len()]);
        let wanted = machine.magic();
        let matches = field("offset ") == Some("0")
            && (wanted.len() - 2..=wanted.len()).contains(&magic.len())
            && magic
                .iter()
                .zip(&mask)
                .zip(&wanted)
                .all(|((byte, mask), wanted)| byte & mask == wanted & mask);
        (text.starts_with("enabled") && matches).then(|| Handler {
            interpreter: field("interpreter ").unwrap_or_default().into(),
            is_open: flags.contains('F'),
        })
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// Whether a program needs no loader, which an image does not have at the place where the host has it.
fn is_static(path: &Path) -> bool {
    /// `PT_INTERP`.
    const LOADER: u32 = 3;
    let read = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut header = [0; 64];
        file.read_exact(&mut header)?;
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Ok(false);
        }
        let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let start = header[32..40].iter().rev().fold(0, |start, byte| start << 8 | u64::from(*byte));
        for index in 0..number(56).min(MOST_HEADERS) {
            file.seek(SeekFrom::Start(start.saturating_add(u64::from(index) * u64::from(number(54)))))?;
            let mut kind = [0; 4];
            file.read_exact(&mut kind)?;
            if u32::from_le_bytes(kind) == LOADER {
                return Ok(false);
            }
        }
        Ok(true)
    };
    read().unwrap_or(false)
}

/// Makes a user namespace with the ids of this one, in which whoever enters it has every right over what belongs to it.
pub(crate) fn user_namespace() -> io::Result<OwnedFd> {
    let mut maps = Vec::new();
    for name in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{name}"))?;
        maps.push((name, same_ids(&own)));
    }
    // It only holds the namespace until that is opened. What it has of the engine's is closed at once.
    let holder = sys::fork(libc::CLONE_NEWUSER, || {
        let _ = sys::close_range(0, u32::MAX);
        let _ = rustix::event::poll(&mut [], None);
        0
    })?;
    let made = (|| {
        for (name, map) in maps {
            std::fs::write(format!("/proc/{}/{name}", holder.pid), map)?;
        }
        Ok(File::open(format!("/proc/{}/ns/user", holder.pid))?.into())
    })();
    let _ = pidfd_send_signal(&holder.pidfd, Signal::KILL);
    sys::wait_for(holder.pid)?;
    made
}

/// A map of each id to itself, from a namespace's own map.
fn same_ids(own: &str) -> String {
    let ranges = own.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace();
        let (first, count) = (numbers.next()?, numbers.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    ranges.collect()
}

/// The words for [`Binfmt::Missing`].
pub fn missing_hint(architecture: &str) -> String {
    let qemu = MACHINES.iter().find(|machine| machine.architecture == architecture);
    match qemu {
        Some(machine) => format!(
            "this machine cannot run programs for {architecture}: install qemu-user-static (`apt-get install qemu-user-static`), so that there is a `qemu-{}-static`",
            machine.qemu
        ),
        None => format!("this machine cannot run programs for {architecture}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: Machine = MACHINES[3];

    #[test]
    fn a_rule_is_what_distributions_register() {
        let rule = String::from_utf8(ARM64.rule()).unwrap();
        assert_eq!(
            rule,
            ":kiln-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /dev/.kiln-emulator:PF"
        );
        let s390x = MACHINES[9];
        assert_eq!((&s390x.magic()[16..], s390x.mask()[17]), (&[0, 2, 0, 22][..], 0xfe));
    }

    #[test]
    fn the_hosts_handlers_are_found_by_what_they_match() {
        let text = |flags: &str, magic: &str| {
            format!(
                "enabled\ninterpreter /usr/libexec/q\nflags: {flags}\noffset 0\nmagic {magic}\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
            )
        };
        let arm64 = "7f454c460201010000000000000000000200b700";
        let open = Handler { interpreter: "/usr/libexec/q".into(), is_open: true };
        assert_eq!(Handler::parse(&text("OPF", arm64), ARM64), Some(open));
        assert!(!Handler::parse(&text("P", arm64), ARM64).unwrap().is_open);
        assert_eq!(Handler::parse(&text("F", "7f454c460201010000000000000000000200f300"), ARM64), None);
        assert_eq!(Handler::parse(&text("F", arm64).replace("enabled", "disabled"), ARM64), None);
        assert_eq!(Handler::parse("enabled\ninterpreter /x\nflags: \nextension .exe\n", ARM64), None);
    }

    #[test]
    fn this_machines_own_programs_need_no_emulator() {
        assert_eq!(Binfmt::of("amd64", "amd64"), Binfmt::AsIs);
        assert_eq!(Binfmt::of("vax", "amd64"), Binfmt::Missing { architecture: "vax".into() });
        assert_eq!(same_ids("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(same_ids("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
