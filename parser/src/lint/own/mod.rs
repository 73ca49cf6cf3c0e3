//! kiln's own rules: habits that cost people time, space or a night's sleep. Each looks for one thing that can be told
//! from the text with some certainty, and says nothing where it cannot.

pub(super) mod apt;
pub(super) mod base_tag;
pub(super) mod caches;
pub(super) mod copying;
pub(super) mod lost;
pub(super) mod onbuild;
