//! From the last step's layers and the plan's config to an image.

use std::time::Duration;

use kiln_image::oci::{History, ImageConfig, RootFs};
use kiln_image::{DiffId, Digest};
use kiln_solver::plan::Plan;
use kiln_solver::solve::{Snapshot, Solver};

use crate::Error;

/// When an image was made.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    /// RFC 3339.
    pub(crate) text: String,
    /// Seconds since the epoch.
    pub(crate) seconds: i64,
    /// It was asked for, by `SOURCE_DATE_EPOCH`.
    pub(crate) fixed: bool,
}

impl Created {
    pub(crate) fn now(since_epoch: Duration) -> Self {
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
        let nanoseconds = i128::try_from(since_epoch.as_nanos()).unwrap_or(0);
        let timestamp = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self { text: timestamp.to_string(), seconds, fixed: false }
    }

    /// `None` for a time no calendar has.
    pub(crate) fn epoch(seconds: i64) -> Option<Self> {
        let timestamp = jiff::Timestamp::from_second(seconds).ok()?;
        Some(Self { text: timestamp.to_string(), seconds, fixed: true })
    }
}

/// An image, not yet anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) snapshot: Snapshot,
    /// Of the layers, in their order.
    pub(crate) diff_ids: Vec<DiffId>,
    pub(crate) platform: kiln_image::Platform,
    pub(crate) created: Created,
}

/// Completes the config: times, history in step with the layers, the layers' DiffIds.
pub(crate) fn assemble(
    solver: &Solver<'_>,
    plan: &Plan,
    snapshot: &Snapshot,
    created: Created,
) -> Result<Assembled, Error> {
    let mut diff_ids = Vec::with_capacity(snapshot.layers.len());
    for layer in &snapshot.layers {
        diff_ids.push(solver.pulls.diff_id(solver.store, layer)?);
    }
    let mut config = plan.config.clone();
    config.created = Some(created.text.clone());
    for entry in config.history.iter_mut().skip(plan.base_history) {
        entry.created = Some(created.text.clone());
    }
    align(&mut config.history, plan.base_history, diff_ids.len(), &created.text);
    config.rootfs = RootFs { diff_ids: diff_ids.clone(), ..RootFs::default() };
    let config_bytes = to_json(&config)?;
    Ok(Assembled {
        config_digest: Digest::of(&config_bytes),
        config_bytes,
        config,
        snapshot: snapshot.clone(),
        diff_ids,
        platform: plan.platform.clone(),
        created,
    })
}

/// Serialises a document of ours.
pub(crate) fn to_json(document: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(document)
        .map_err(|error| Error::new(crate::ErrorKind::Environment, format!("internal: {error}")))
}

/// Entries that made a layer must be as many as the layers (FEATURES IF7). Images by other tools may lack history: what
/// is missing belongs to the base and goes behind its entries; a surplus is marked as having made no layer.
fn align(history: &mut Vec<History>, base: usize, layers: usize, created: &str) {
    let with_layer = history.iter().filter(|entry| !entry.empty_layer).count();
    for _ in with_layer..layers {
        let filler = History { created: Some(created.to_owned()), ..History::default() };
        history.insert(base.min(history.len()), filler);
    }
    let surplus = with_layer.saturating_sub(layers);
    for entry in history.iter_mut().rev().filter(|entry| !entry.empty_layer).take(surplus) {
        entry.empty_layer = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(created_by: &str, empty_layer: bool) -> History {
        History { created_by: created_by.into(), empty_layer, ..History::default() }
    }

    #[test]
    fn a_base_without_history_gets_an_entry_for_each_of_its_layers() {
        let mut history = vec![entry("COPY a /", false), entry("CMD x", true)];
        align(&mut history, 0, 3, "now");
        let made: Vec<_> = history.iter().map(|entry| entry.created_by.as_str()).collect();
        assert_eq!(made, ["", "", "COPY a /", "CMD x"]);
    }

    #[test]
    fn an_entry_without_a_layer_of_its_own_is_marked_so() {
        let mut history = vec![entry("a", false), entry("b", false)];
        align(&mut history, 0, 1, "now");
        assert_eq!(history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn an_epoch_is_written_in_rfc_3339() {
        assert_eq!(Created::epoch(1_700_000_000).unwrap().text, "2023-11-14T22:13:20Z");
    }
}
