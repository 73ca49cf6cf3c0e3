//! The host's devices for `RUN --device` (FEATURES RN35): which are meant, and whether the build may have them.

use std::path::PathBuf;

use kiln_parser::Span;
use kiln_sandbox::{Devices, SPEC_DIRECTORIES};
use kiln_solver::event::Event;
use kiln_solver::graph::{ExecDevice, Op, Vertex};
use kiln_solver::plan::Plan;

use crate::Error;
use crate::session::Session;

/// The entitlement: alone for every device, with `=NAME` for some.
const ENTITLEMENT: &str = "device";

impl Session<'_> {
    /// Looks up what the steps want and notes it in the plans; nothing is read where no step wants a device.
    ///
    /// # Errors
    /// A required device that is not there; one that the build may not have.
    pub(crate) fn find_devices(&self, plans: &mut [Plan]) -> Result<Devices, Error> {
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
                self.find_device(&devices, device, span).map_err(|mut error| {
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
        device: &mut ExecDevice,
        span: Option<Span>,
    ) -> Result<(), Error> {
        let found = devices.find(&device.wanted.name);
        if found.is_empty() {
            let missing = devices.not_registered(&device.wanted.name);
            if device.wanted.required {
                return Err(Error::user(missing.to_string()).hinted(
                    "a device is described by a specification (JSON) in /etc/cdi or /var/run/cdi; \
                     `--cdi-spec-dir` names another directory",
                ));
            }
            let message = missing.to_string().replacen("required", "optional", 1);
            self.reporter.send(Event::Warning { rule: None, message, span });
        }
        let forbidden: Vec<&str> =
            found.iter().filter(|name| !self.may_have(devices, name)).map(String::as_str).collect();
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

    fn may_have(&self, devices: &Devices, name: &String) -> bool {
        let given = self.build.allow.iter().any(|entitlement| match entitlement.split_once('=') {
            None => entitlement == ENTITLEMENT,
            Some((ENTITLEMENT, given)) => devices.find(given).contains(name),
            Some(_) => false,
        });
        given || devices.is_auto_allowed(name)
    }
}
