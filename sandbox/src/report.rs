//! What the child tells the parent, through a pipe: fixed-size records and bytes, made without allocating.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::sys::RawUsage;

/// A step of entering the sandbox; the parent words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    Descriptors,
    ControlGroup,
    Namespaces,
    UserNamespace,
    Hostname,
    Network,
    PrivateMounts,
    Layer,
    Root,
    PrivateFiles,
    Proc,
    Sys,
    Dev,
    EtcFiles,
    MountSource,
    MountTarget,
    Mask,
    Pivot,
    WorkingDirectory,
    Terminal,
    Fork,
    Keyring,
    Limits,
    Capabilities,
    User,
    Seccomp,
    Emulator,
    Owners,
    Runtime,
}

impl Step {
    const ALL: [Step; 29] = [
        Step::Descriptors,
        Step::ControlGroup,
        Step::Namespaces,
        Step::UserNamespace,
        Step::Hostname,
        Step::Network,
        Step::PrivateMounts,
        Step::Layer,
        Step::Root,
        Step::PrivateFiles,
        Step::Proc,
        Step::Sys,
        Step::Dev,
        Step::EtcFiles,
        Step::MountSource,
        Step::MountTarget,
        Step::Mask,
        Step::Pivot,
        Step::WorkingDirectory,
        Step::Terminal,
        Step::Fork,
        Step::Keyring,
        Step::Limits,
        Step::Capabilities,
        Step::User,
        Step::Seccomp,
        Step::Emulator,
        Step::Owners,
        Step::Runtime,
    ];
}

/// Where a step failed: the step, which of its things (layer, mount), why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) index: u32,
    pub(crate) errno: Errno,
}

/// The rest of a step's result.
pub(crate) type Entered<T> = Result<T, Failure>;

/// Says at which step something failed.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Entered<T>;
    fn at_index(self, step: Step, index: usize) -> Entered<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Entered<T> {
        self.at_index(step, 0)
    }

    fn at_index(self, step: Step, index: usize) -> Entered<T> {
        self.map_err(|errno| Failure { step, index: index as u32, errno })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, step: Step) -> Entered<T> {
        self.at_index(step, 0)
    }

    fn at_index(self, step: Step, index: usize) -> Entered<T> {
        self.map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
            .at_index(step, index)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report<'a> {
    /// A step failed; nothing was started.
    Failed { step: Step, index: u32, errno: i32 },
    /// The command could not be executed; `found` when a file of that name was there.
    NotExecuted { errno: i32, found: bool },
    /// A mount point was made in the upper directory: its inode there, and its path from the root.
    Stub { inode: u64, directory: bool, path: &'a [u8] },
    /// The command ended.
    Ended { wait_status: i32, usage: RawUsage },
    /// What an OCI runtime has logged.
    RuntimeLog { text: &'a [u8] },
}

/// Words before a record's bytes: kind, five values, number of bytes.
const HEADER_WORDS: usize = 7;
const HEADER_BYTES: usize = HEADER_WORDS * 8;

impl Report<'_> {
    /// Writes the record. A parent that is gone does not matter: the sandbox is about to die with it.
    pub(crate) fn send(&self, pipe: BorrowedFd<'_>) {
        let (words, bytes): ([u64; HEADER_WORDS - 1], &[u8]) = match *self {
            Report::Failed { step, index, errno } => {
                ([1, step as u64, index.into(), errno as u64, 0, 0], &[])
            }
            Report::NotExecuted { errno, found } => ([2, errno as u64, found.into(), 0, 0, 0], &[]),
            Report::Stub { inode, directory, path } => ([3, inode, directory.into(), 0, 0, 0], path),
            Report::RuntimeLog { text } => ([5, 0, 0, 0, 0, 0], text),
            Report::Ended { wait_status, usage } => {
                let RawUsage { cpu_micros, max_rss_bytes, read_bytes, written_bytes } = usage;
                ([4, wait_status as u64, cpu_micros, max_rss_bytes, read_bytes, written_bytes], &[])
            }
        };
        let mut header = [0_u8; HEADER_BYTES];
        for (slot, word) in header.chunks_exact_mut(8).zip(words.into_iter().chain([bytes.len() as u64])) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        write_all(pipe, &header);
        write_all(pipe, bytes);
    }

    /// The records in `bytes`; an incomplete last one (the child was killed) is left out.
    pub(crate) fn parse_all(mut bytes: &[u8]) -> Vec<Report<'_>> {
        let mut reports = Vec::new();
        while let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) {
            let mut words = [0_u64; HEADER_WORDS];
            for (word, slot) in words.iter_mut().zip(header.chunks_exact(8)) {
                *word = slot.try_into().map_or(0, u64::from_ne_bytes);
            }
            let [kind, a, b, c, d, e, length] = words;
            let Some((payload, rest)) = rest.split_at_checked(length as usize) else { break };
            bytes = rest;
            reports.push(match kind {
                1 => {
                    let Some(&step) = Step::ALL.get(a as usize) else { break };
                    Report::Failed { step, index: b as u32, errno: c as i32 }
                }
                2 => Report::NotExecuted { errno: a as i32, found: b != 0 },
                3 => Report::Stub { inode: a, directory: b != 0, path: payload },
                4 => {
                    let usage = RawUsage { cpu_micros: b, max_rss_bytes: c, read_bytes: d, written_bytes: e };
                    Report::Ended { wait_status: a as i32, usage }
                }
                5 => Report::RuntimeLog { text: payload },
                _ => break,
            });
        }
        reports
    }
}

fn write_all(pipe: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn records_arrive_as_they_were_sent() {
        let sent = [
            Report::Stub { inode: 7, directory: true, path: b"etc/x" },
            Report::Failed { step: Step::Seccomp, index: 3, errno: -1 },
            Report::Ended {
                wait_status: 9,
                usage: RawUsage { cpu_micros: 1, max_rss_bytes: 2, read_bytes: 3, written_bytes: 4 },
            },
            Report::NotExecuted { errno: 2, found: true },
        ];
        let (mut reader, writer) = std::io::pipe().unwrap();
        sent.iter().for_each(|report| report.send(writer.as_fd()));
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(Report::parse_all(&bytes), sent);
        assert_eq!(Report::parse_all(&bytes[..bytes.len() - 1]).len(), 3);
    }

    #[test]
    fn steps_are_numbered_in_their_order() {
        assert!(Step::ALL.iter().enumerate().all(|(index, &step)| step as usize == index));
    }
}
