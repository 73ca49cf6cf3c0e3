//! From the last step's layers and the plan's config to an image.

use kiln_cache::Layer;
use kiln_image::oci::{History, ImageConfig, RootFs};
use kiln_image::{DiffId, Digest};
use kiln_solver::plan::Plan;
use kiln_solver::solve::{Snapshot, Solver};

use crate::Error;

/// An image, not yet anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Assembled {
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) layers: Vec<Layer>,
    /// Of the layers, in their order.
    pub(crate) diff_ids: Vec<DiffId>,
    pub(crate) platform: kiln_image::Platform,
    /// So many entries of the history are the base's.
    base_history: usize,
    /// `SOURCE_DATE_EPOCH`, in seconds, where it was asked for.
    pub(crate) epoch: Option<i64>,
}

/// Completes the config: times, history in step with the layers, the layers' DiffIds.
pub(crate) fn assemble(
    solver: &Solver<'_>,
    plan: &Plan,
    snapshot: &Snapshot,
    epoch: Option<i64>,
) -> Result<Assembled, Error> {
    let layers = snapshot.layers();
    let facts = solver.pulls.facts(solver.store, &layers)?;
    let diff_ids = solver.pulls.diff_ids(solver.store, &layers, &facts)?;
    let mut config = plan.config.clone();
    align(&mut config.history, plan.base_history, diff_ids.len());
    match epoch {
        Some(seconds) => set_time(&mut config, plan.base_history, seconds),
        None => {
            let made_at: Vec<_> =
                facts.iter().map(|facts| facts.as_ref().and_then(|facts| timestamp(facts.made_at))).collect();
            date(&mut config.history, plan.base_history, &made_at);
            config.created = config.history.iter().rev().find_map(|entry| entry.created.clone());
        }
    }
    config.rootfs = RootFs { diff_ids: diff_ids.clone(), ..RootFs::default() };
    let config_bytes = to_json(&config)?;
    Ok(Assembled {
        config_digest: Digest::of(&config_bytes),
        config_bytes,
        config,
        layers,
        diff_ids,
        platform: plan.platform.clone(),
        base_history: plan.base_history,
        epoch,
    })
}

impl Assembled {
    /// The same image, that does not say how it was made.
    pub(crate) fn without_history(mut self) -> Result<Self, Error> {
        self.config.history.clear();
        self.config_bytes = to_json(&self.config)?;
        self.config_digest = Digest::of(&self.config_bytes);
        Ok(self)
    }

    /// The same image, made at `seconds`.
    pub(crate) fn at(&self, seconds: i64) -> Result<Self, Error> {
        let mut config = self.config.clone();
        set_time(&mut config, self.base_history, seconds);
        let config_bytes = to_json(&config)?;
        let config_digest = Digest::of(&config_bytes);
        Ok(Self { config_digest, config_bytes, config, epoch: Some(seconds), ..self.clone() })
    }
}

/// Dates the image, and the history behind the base's.
fn set_time(config: &mut ImageConfig, base_history: usize, seconds: i64) {
    let text = timestamp(seconds);
    for entry in config.history.iter_mut().skip(base_history) {
        entry.created.clone_from(&text);
    }
    config.created = text;
}

/// RFC 3339; `None` for a time no calendar has.
pub(crate) fn timestamp(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// Dates the entries after the base's: a layer's by when it was made, one without a layer by the layer before it, or,
/// at the start, by the first layer that is new. Never by the clock: building nothing new gives the same image again
/// (BuildKit's rule for entries without a time).
fn date(history: &mut [History], base: usize, made_at: &[Option<String>]) {
    let mut layers = made_at.iter();
    for (index, entry) in history.iter_mut().enumerate() {
        let time = if entry.empty_layer { None } else { layers.next().cloned().flatten() };
        if index >= base {
            entry.created = time;
        }
    }
    let of_base = history.iter().take(base).rev().find_map(|entry| entry.created.clone());
    let first_new = history.iter().skip(base).find_map(|entry| entry.created.clone());
    let mut before = first_new.or(of_base);
    for entry in history.iter_mut().skip(base) {
        match &entry.created {
            Some(time) => before = Some(time.clone()),
            None => entry.created.clone_from(&before),
        }
    }
}

/// Serialises a document of ours.
pub(crate) fn to_json(document: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(document)
        .map_err(|error| Error::new(crate::ErrorKind::Environment, format!("internal: {error}")))
}

/// Entries that made a layer must be as many as the layers (FEATURES IF7). Images by other tools may lack history: what
/// is missing belongs to the base and goes behind its entries; a surplus is marked as having made no layer.
fn align(history: &mut Vec<History>, base: usize, layers: usize) {
    let with_layer = history.iter().filter(|entry| !entry.empty_layer).count();
    for _ in with_layer..layers {
        history.insert(base.min(history.len()), History::default());
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
        align(&mut history, 0, 3);
        let made: Vec<_> = history.iter().map(|entry| entry.created_by.as_str()).collect();
        assert_eq!(made, ["", "", "COPY a /", "CMD x"]);
    }

    #[test]
    fn an_entry_without_a_layer_of_its_own_is_marked_so() {
        let mut history = vec![entry("a", false), entry("b", false)];
        align(&mut history, 0, 1);
        assert_eq!(history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn an_epoch_is_written_in_rfc_3339() {
        assert_eq!(timestamp(1_700_000_000).unwrap(), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn entries_are_dated_by_the_layers_around_them_and_never_by_the_clock() {
        let mut history = [
            History { created: Some("base".into()), ..entry("base", false) },
            entry("ENV a=b", true),
            entry("RUN x", false),
            entry("CMD x", true),
            entry("COPY y /", false),
        ];
        let made_at = ["pulled", "ten", "eleven"].map(|time| Some(time.to_owned()));
        date(&mut history, 1, &made_at);
        let times: Vec<_> = history.iter().map(|entry| entry.created.as_deref().unwrap_or("")).collect();
        assert_eq!(times, ["base", "ten", "ten", "ten", "eleven"]);
    }

    #[test]
    fn an_image_of_settings_alone_is_as_old_as_its_base() {
        let mut history =
            [History { created: Some("base".into()), ..entry("base", false) }, entry("CMD x", true)];
        date(&mut history, 1, &[Some("pulled".into())]);
        assert_eq!(history[1].created.as_deref(), Some("base"));
    }
}
