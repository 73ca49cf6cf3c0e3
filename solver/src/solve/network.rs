//! Networks of steps that say nothing of theirs: one of its own for each step that runs, kept for the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_sandbox::{HostAccess, IsolatedNetwork, Network, NetworkError};

use super::SolveError;
use crate::event::{Event, Reporter};
use crate::graph::Exec;

/// What becomes of steps where no network of their own can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// They get the host's network, and the user is told.
    #[default]
    WhereAvailable,
    /// They fail.
    Required,
}

/// The networks of a build that no step uses at present.
///
/// Steps that run at the same time have one each, so that two servers on one port do not meet, and none reaches what
/// another one listens on. One after another they share: a step leaves nothing in a network, since all its processes
/// are gone and it may not change routes or rules.
#[derive(Debug, Default)]
pub struct Networks {
    free: Mutex<Vec<Arc<IsolatedNetwork>>>,
    /// The user knows that there are none.
    told: AtomicBool,
}

/// A network that a step has for itself.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    networks: &'a Networks,
    network: Option<Arc<IsolatedNetwork>>,
}

impl Networks {
    /// Takes one for `exec`, which may not be connected yet; nothing for others who have the host's already.
    pub(super) fn lease(
        &self,
        exec: &Exec,
        isolation: Isolation,
        reporter: &Reporter,
    ) -> Result<Lease<'_>, SolveError> {
        if isolation == Isolation::WhereAvailable && self.told.load(Ordering::Relaxed) {
            return Ok(Lease { networks: self, network: None });
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let gateway =
            exec.extra_hosts.iter().any(|(_, address)| *address == kiln_sandbox::HostAddress::Gateway);
        let network = match free {
            Some(network) => Some(network),
            None => {
                let access = if gateway { HostAccess::Address } else { HostAccess::None };
                match IsolatedNetwork::new(access) {
                    Ok(network) => Some(Arc::new(network)),
                    Err(error) => self.without(error, isolation, reporter)?,
                }
            }
        };
        Ok(Lease { networks: self, network })
    }

    /// Says once that there are none.
    pub(super) fn without<T>(
        &self,
        error: NetworkError,
        isolation: Isolation,
        reporter: &Reporter,
    ) -> Result<Option<T>, SolveError> {
        if isolation == Isolation::Required {
            return Err(SolveError::Network(error));
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            let mut message = format!(
                "{error}: RUN steps use the host's network and reach the services on its loopback; --network=host says \
                 that this is wanted"
            );
            if let Some(hint) = error.hint() {
                message.push_str(&format!(", and `{hint}` brings them a network of their own"));
            }
            reporter.send(Event::Warning { rule: None, message, span: None });
        }
        Ok(None)
    }
}

impl Lease<'_> {
    pub(super) fn network(&self) -> Network {
        match &self.network {
            Some(network) => Network::Isolated(Arc::clone(network)),
            None => Network::Host,
        }
    }

    /// Ends it with the step: that may have changed it, or it cannot be connected.
    pub(super) fn discard(mut self) {
        self.network = None;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(network) = self.network.take() {
            self.networks.free.lock().unwrap_or_else(PoisonError::into_inner).push(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lack_of_networks_is_said_once_and_an_error_where_one_is_required() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&said);
        let reporter = Reporter::new(Arc::new(move |event| {
            if let Event::Warning { message, .. } = event {
                sink.lock().unwrap().push(message);
            }
        }));
        let networks = Networks::default();
        for _ in 0..2 {
            let found = networks.without::<()>(NetworkError::NoPasta, Isolation::WhereAvailable, &reporter);
            assert!(matches!(found, Ok(None)));
        }
        let refused = networks.without::<()>(NetworkError::NoPasta, Isolation::Required, &reporter);
        let error = refused.unwrap_err();
        assert_eq!(error.to_string(), "the step cannot have a network of its own: `pasta` is not installed");
        assert!(error.hint().unwrap().contains("passt"));
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("`pasta` is not installed: RUN steps use the host's network"),
            "{said:?}"
        );
    }
}
