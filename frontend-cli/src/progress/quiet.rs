//! Nothing at all.

use std::time::Duration;

use kiln::Event;

/// Shows nothing; the events are taken so that the engine never waits.
pub(super) struct Quiet;

impl super::Display for Quiet {
    fn event(&mut self, _: &Event) {}
    fn tick(&mut self, _: Duration) {}
    fn finish(&mut self, _: Duration) {}
}
