//! Which process is who: what each has said, and what its children have inherited.
//!
//! The kernel does not tell of new processes. One that is not known is what its parent is, so before a process changes
//! or ends its children are written down. As long as nobody has changed, nothing is looked up at all.

use std::collections::HashMap;

use super::credentials::Credentials;
use super::process::Host;

/// Processes written down before those that have ended are swept out.
const SWEEP_AT: usize = 1024;
/// Parents asked for one process; deeper trees are not taken for hostile, only for the first user's.
const DEPTH_LIMIT: u32 = 64;

/// Who all processes of a sandbox are.
#[derive(Debug)]
pub(crate) struct Identities {
    first: Credentials,
    known: HashMap<u32, Known>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Known {
    /// When it began: a number may be another process's later.
    started: u64,
    credentials: Credentials,
}

impl Identities {
    pub(crate) fn new(first: Credentials) -> Identities {
        Identities { first, known: HashMap::new(), sweep_at: SWEEP_AT }
    }

    /// Who `thread` is.
    pub(crate) fn of(&self, host: &Host, thread: u32) -> Credentials {
        if self.known.is_empty() {
            return self.first.clone();
        }
        let mut id = thread;
        for _ in 0..DEPTH_LIMIT {
            let Some(facts) = host.facts(id) else { break };
            if let Some(known) = self.known.get(&id).filter(|known| known.started == facts.started) {
                return known.credentials.clone();
            }
            // A thread is what its process is.
            id = if facts.process != id { facts.process } else { facts.parent };
        }
        self.first.clone()
    }

    /// Makes `thread`, which is `before`, another one.
    pub(crate) fn change(&mut self, host: &Host, thread: u32, before: &Credentials, after: Credentials) {
        if *before == after {
            return;
        }
        self.write_children_down(host, thread, before);
        self.write_down(host, thread, after);
    }

    /// `thread` and the others of its process end.
    pub(crate) fn end(&mut self, host: &Host, thread: u32) {
        if self.known.is_empty() {
            return;
        }
        let credentials = self.of(host, thread);
        self.write_children_down(host, thread, &credentials);
        self.known.remove(&thread);
    }

    fn write_children_down(&mut self, host: &Host, thread: u32, credentials: &Credentials) {
        for child in host.children(thread) {
            let is_known = host.facts(child).is_none_or(|facts| {
                self.known.get(&child).is_some_and(|known| known.started == facts.started)
            });
            if !is_known {
                self.write_down(host, child, credentials.clone());
            }
        }
    }

    fn write_down(&mut self, host: &Host, id: u32, credentials: Credentials) {
        let Some(facts) = host.facts(id) else { return };
        if self.known.len() >= self.sweep_at {
            self.known
                .retain(|&id, known| host.facts(id).is_some_and(|facts| facts.started == known.started));
            self.sweep_at = SWEEP_AT.max(2 * self.known.len());
        }
        self.known.insert(id, Known { started: facts.started, credentials });
    }
}
