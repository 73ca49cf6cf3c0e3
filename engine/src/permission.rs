//! Whether registries take what will be pushed, asked while the build is planned: nobody wants to hear at the end of a long
//! build that he is not logged in.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use kiln_image::ImageRef;

use crate::Error;
use crate::push::{self, Transport};
use crate::session::Session;

/// What a registry has not answered by then is built, and the push tells.
const PATIENCE: Duration = Duration::from_secs(3);

/// A question that is being asked.
#[derive(Debug)]
pub(crate) struct Permission {
    /// Ends with the question.
    refusal: Receiver<Error>,
}

impl Permission {
    /// Asks the registries of `repositories`, one after another. What it costs is no more than two requests: the connection and
    /// the token serve the push.
    pub(crate) fn ask(session: &Session<'_>, repositories: Vec<(ImageRef, Transport)>) -> Self {
        let (sender, refusal) = channel();
        if repositories.is_empty() {
            return Self { refusal };
        }
        let (registry, cancel) = (session.registry.clone(), Arc::clone(session.cancel));
        let ask = move || {
            for (name, transport) in repositories {
                match push::target(&registry, &name, transport, &cancel).and_then(|push| push.ask()) {
                    Ok(()) => {}
                    Err(error) if error.is_refusal() => {
                        // Nobody listens any more: then the push tells.
                        let _ = sender.send(error.into());
                        return;
                    }
                    Err(error) => tracing::debug!(%name, %error, "whether it can be pushed is not known"),
                }
            }
        };
        // Without a thread the push tells.
        let _ = thread::Builder::new().name("kiln-may-push".into()).spawn(ask);
        Self { refusal }
    }

    /// Waits for the answers, but not for long.
    ///
    /// # Errors
    /// A registry says no, or must not be asked.
    pub(crate) fn wait(self) -> Result<(), Error> {
        match self.refusal.recv_timeout(PATIENCE) {
            Ok(refused) => Err(refused),
            Err(_) => Ok(()),
        }
    }
}
