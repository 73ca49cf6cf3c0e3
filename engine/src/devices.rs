//! The host's devices for `RUN --device` (FEATURES RN35): which are meant, and whether the build may have them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_parser::Span;
use kiln_sandbox::{Devices, SPEC_DIRECTORIES};
use kiln_solver::event::Event;
use kiln_solver::graph::{ExecDevice, Op, Vertex};
use kiln_solver::plan::Plan;

use crate::Error;
use crate::session::Session;

/// The entitlement: alone for every device, with `=NAME` for some, with `=NAME,alias=WORD` for some by another name.
const ENTITLEMENT: &str = "device";

/// The devices that a build may have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Grants<'a> {
    all: bool,
    /// As a Dockerfile asks for them: one device, a kind or a class.
    names: Vec<&'a str>,
    /// What the words of a Dockerfile stand for.
    aliases: BTreeMap<&'a str, &'a str>,
}

impl<'a> Grants<'a> {
    fn of(entitlements: &'a [String]) -> Result<Self, Error> {
        let mut grants = Self::default();
        for entitlement in entitlements {
            let given = match entitlement.split_once('=') {
                None if entitlement == ENTITLEMENT => {
                    grants.all = true;
                    continue;
                }
                Some((ENTITLEMENT, given)) => given,
                _ => continue,
            };
            let (name, keys) = given.split_once(',').unwrap_or((given, ""));
            let mut alias = None;
            for key in keys.split(',').filter(|key| !key.is_empty()) {
                match key.split_once('=') {
                    Some(("alias", word)) if !word.is_empty() => alias = Some(word),
                    _ => {
                        return Err(Error::user(format!("--allow {entitlement}: unknown key `{key}`"))
                            .hinted("a device is allowed as `device=NAME` or `device=NAME,alias=WORD`"));
                    }
                }
            }
            match alias {
                Some(word) => _ = grants.aliases.insert(word, name),
                None => grants.names.push(name),
            }
        }
        Ok(grants)
    }

    fn allow(&self, devices: &Devices, name: &String) -> bool {
        self.all
            || self.names.iter().any(|given| devices.find(given).contains(name))
            || devices.is_auto_allowed(name)
    }
}

impl Session<'_> {
    /// Looks up what the steps want and notes it in the plans; nothing is read where no step wants a device.
    ///
    /// # Errors
    /// A required device that is not there; one that the build may not have; a permission that makes no sense.
    pub(crate) fn find_devices(&self, plans: &mut [Plan]) -> Result<Devices, Error> {
        let mut grants = Grants::of(&self.build.allow)?;
        // Whoever asks for one by a flag allows it.
        grants.names.extend(self.build.devices.iter().map(String::as_str));
        let wants = |vertex: &Vertex| matches!(&vertex.op, Op::Exec(exec) if !exec.devices.is_empty());
        if !plans.iter().flat_map(|plan| plan.graph.node_weights()).any(wants) {
            return Ok(Devices::default());
        }
        let directories = match self.build.device_spec_dirs.as_slice() {
            [] => SPEC_DIRECTORIES.map(PathBuf::from).to_vec(),
            given => given.to_vec(),
        };
        let devices = Devices::read(&directories);
        for vertex in plans.iter_mut().flat_map(|plan| plan.graph.node_weights_mut()) {
            let span = vertex.span;
            let Op::Exec(exec) = &mut vertex.op else { continue };
            for device in &mut exec.devices {
                self.find_device(&devices, &grants, device, span).map_err(|mut error| {
                    error.label(span, Some(&device.wanted.name));
                    error
                })?;
            }
        }
        Ok(devices)
    }

    fn find_device(
        &self,
        devices: &Devices,
        grants: &Grants<'_>,
        device: &mut ExecDevice,
        span: Option<Span>,
    ) -> Result<(), Error> {
        let alias = grants.aliases.get(device.wanted.name.as_str()).copied();
        let wanted = alias.unwrap_or(&device.wanted.name);
        let found = devices.find(wanted);
        if found.is_empty() {
            let missing = devices.not_registered(wanted);
            if device.wanted.required {
                return Err(Error::user(missing.to_string()).hinted(
                    "a device is described by a specification (*.yaml, *.json) in /etc/cdi or /var/run/cdi; \
                     `--cdi-spec-dir` names another directory",
                ));
            }
            let message = missing.to_string().replacen("required", "optional", 1);
            self.reporter.send(Event::Warning { rule: None, message, span });
        }
        // Whoever says what a word stands for allows that.
        let is_forbidden = |name: &&String| alias.is_none() && !grants.allow(devices, name);
        let forbidden: Vec<&str> = found.iter().filter(is_forbidden).map(String::as_str).collect();
        if let [first, others @ ..] = forbidden.as_slice() {
            let message = match others {
                [] => format!("device {first} is requested by the build but not allowed"),
                _ => format!("devices {} are requested by the build but not allowed", forbidden.join(", ")),
            };
            return Err(Error::user(message).hinted(format!("allow it with `--allow {ENTITLEMENT}={first}`")));
        }
        device.found = found;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entitlements_name_devices_and_what_words_stand_for() {
        let given = ["network.host", "device=acme.com/gpu=0", "device=acme.com/net=*,alias=fast", "devices"];
        let given = given.map(str::to_owned);
        let grants = Grants::of(&given).unwrap();
        let aliases = BTreeMap::from([("fast", "acme.com/net=*")]);
        assert_eq!(grants, Grants { all: false, names: vec!["acme.com/gpu=0"], aliases });
        assert!(Grants::of(&["device".to_owned()]).unwrap().all);
        for wrong in ["device=a/b=c,name=x", "device=a/b=c,alias", "device=a/b=c,alias="] {
            assert!(Grants::of(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
