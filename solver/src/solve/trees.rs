//! Whole trees of a build whose steps run without namespaces.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_cache::{LayerDraft, Store};

use super::SolveError;
use crate::event::{Event, Reporter};

/// Where trees are kept while a build goes on; a folder of the store's, made when the first step needs it, removed with
/// this, and swept after a kill.
#[derive(Debug, Default)]
pub struct Trees(Mutex<Option<(Arc<kiln_sandbox::Trees>, LayerDraft)>>);

impl Trees {
    /// The folder's; the first to ask also makes the user hear what such steps lack.
    pub(super) fn of(
        &self,
        store: &Store,
        reporter: &Reporter,
    ) -> Result<Arc<kiln_sandbox::Trees>, SolveError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((trees, _)) = &*made {
            return Ok(Arc::clone(trees));
        }
        let folder = store.scratch_dir()?;
        let trees = Arc::new(kiln_sandbox::Trees::new(folder.fs()));
        *made = Some((Arc::clone(&trees), folder));
        let message = "RUN steps run by chroot: they share processes and network with this container, have no /proc and \
                       no /sys, and read-only mounts can be written to (what is written is lost)";
        reporter.send(Event::Warning { rule: None, message: message.into(), span: None });
        Ok(trees)
    }
}
