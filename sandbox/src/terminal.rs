//! The user's end of a terminal: raw mode while the command runs, bytes both ways, the window's size.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::Terminal;

/// Bytes typed ahead that are kept; beyond it the user's terminal is not read.
const TYPED_AHEAD: usize = 64 * 1024;

/// Puts the user's terminal into raw mode until dropped.
#[derive(Debug)]
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Nothing when `terminal` is none.
    fn enter(terminal: BorrowedFd<'a>) -> Option<RawMode<'a>> {
        let before = rustix::termios::tcgetattr(terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Drain, &raw).ok()?;
        Some(RawMode { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Copies between the user's terminal and the sandbox's.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    user: &'a Terminal,
    _raw: Option<RawMode<'a>>,
    master: OwnedFd,
    size: Option<(u16, u16)>,
    typed: VecDeque<u8>,
    input_open: bool,
}

impl<'a> Session<'a> {
    /// Takes the master of the terminal that was made inside.
    pub(crate) fn new(user: &'a Terminal, master: OwnedFd) -> io::Result<Session<'a>> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
        let raw = user.input.as_ref().and_then(|input| RawMode::enter(input.as_fd()));
        let input_open = user.input.is_some();
        let mut session = Session { user, _raw: raw, master, size: None, typed: VecDeque::new(), input_open };
        session.copy_size();
        Ok(session)
    }

    /// What to wait for: the master, and the user's input while there is room for it.
    pub(crate) fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        let input = self.user.input.as_ref().map(AsFd::as_fd);
        (self.master.as_fd(), input.filter(|_| self.input_open && self.typed.len() < TYPED_AHEAD))
    }

    /// Whether typed bytes wait for the master.
    pub(crate) fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Gives the sandbox's terminal the size of the user's, where that has changed. Asked on every turn of the loop,
    /// since a handler for SIGWINCH would be the whole process's.
    pub(crate) fn copy_size(&mut self) {
        if let Some(size) = size_of(self.user)
            && self.size != Some((size.ws_row, size.ws_col))
        {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
            self.size = Some((size.ws_row, size.ws_col));
        }
    }

    /// Reads what the user typed.
    pub(crate) fn read_input(&mut self) {
        let Some(input) = &self.user.input else { return };
        let mut buffer = [0_u8; 4096];
        match rustix::io::read(input, &mut buffer) {
            Ok(0) => {
                self.input_open = false;
                // End of file, as a terminal says it.
                self.typed.push_back(END_OF_FILE);
            }
            Ok(length) => self.typed.extend(&buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.input_open = false,
        }
        self.write_typed();
    }

    /// Writes what was typed, as far as the sandbox takes it.
    pub(crate) fn write_typed(&mut self) {
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, self.typed.as_slices().0) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(_) => return,
            }
        }
    }

    /// Copies output; `false` when there will be no more.
    pub(crate) fn copy_output(&mut self) -> bool {
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    if write_all(self.user.output.as_fd(), &buffer[..length]).is_err() {
                        return false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // EIO: every process that had it open is gone.
                Err(_) => return false,
            }
        }
    }
}

/// The size of the user's terminal, where it is one.
pub(crate) fn size_of(user: &Terminal) -> Option<Winsize> {
    let input = user.input.as_ref().and_then(|fd| rustix::termios::tcgetwinsize(fd).ok());
    input.or_else(|| rustix::termios::tcgetwinsize(&user.output).ok())
}

/// Control-D.
const END_OF_FILE: u8 = 4;

fn write_all(output: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut events = [rustix::event::PollFd::new(&output, rustix::event::PollFlags::OUT)];
                let _ = rustix::event::poll(&mut events, None);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
