//! Room for one more attempt on a full disk.

use kiln_cache::Pruned;

use super::Solver;
use crate::event::Event;

/// At least so many bytes are made free, or a quarter of the disk.
const LEAST_BYTES: u64 = 4 << 30;
/// What was tried needed more than what is free now that it is given up; nobody knows how much more.
const TIMES_FREE: u64 = 4;

/// Removes what the cache can spare. Whether another attempt has a chance: something went.
pub(super) fn make(solver: &Solver<'_>) -> bool {
    let Ok(disk) = solver.store.disk() else { return false };
    let wanted = disk.free_bytes.saturating_mul(TIMES_FREE) + LEAST_BYTES.min(disk.total_bytes / 4);
    match solver.store.make_room(wanted) {
        Ok(Pruned { size_bytes: 0, .. }) => false,
        Ok(pruned) => {
            let message = format!(
                "the disk is full: {} MB of the cache were removed, and the step is tried once more",
                pruned.size_bytes / 1_000_000
            );
            solver.reporter.send(Event::Warning { rule: None, message, span: None });
            true
        }
        Err(error) => {
            tracing::debug!(%error, "no room could be made");
            false
        }
    }
}
