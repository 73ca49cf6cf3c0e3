//! Attestations: how an image was made (SLSA provenance) and what is in it (an SPDX SBOM), in the form and place that
//! BuildKit gives them.
//!
//! `capture` says what a build took in, `provenance` and `steps` tell it; `packages` reads an image's package databases,
//! `spdx` lists them; `manifest` makes of these what an index holds beside the image. The outputs ask an [`Attestor`].
//!
//! Nothing is attested unless it is asked for: an attestation says when it was made, and a build without one has the same
//! digest each time. With `SOURCE_DATE_EPOCH` attestations are the same each time too.

mod capture;
mod checkout;
mod manifest;
mod options;
mod packages;
mod provenance;
mod purl;
mod spdx;
mod steps;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::Layer;
use kiln_image::oci::Descriptor;
use kiln_image::{Digest, ImageRef, Platform};
use kiln_solver::event::Event;
use kiln_solver::plan::Plan;
use kiln_solver::solve::{Output, Solver};
use serde_json::{Value, json};

pub(crate) use capture::Request;
pub(crate) use manifest::{Attached, Form, attested_image, listed};
pub use options::{Attestations, Provenance, ProvenanceMode, Sbom, SlsaVersion};

use crate::assemble::{Assembled, timestamp, to_json};
use crate::{Error, ErrorKind};
use capture::Capture;
use packages::Inventory;
use provenance::Making;

/// How many packages a database of rpm's has.
#[cfg(fuzzing)]
pub(crate) fn rpm_packages(bytes: &[u8]) -> Result<usize, &'static str> {
    packages::rpm_packages(bytes)
}

/// Larger statements are neither made nor read (BuildKit's limit for what it takes from scanners).
pub(crate) const MAX_STATEMENT_BYTES: u64 = 40 << 20;

/// Where an attestation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside an image.
    Inline,
    /// Beside files, or where only what is no more than inline is not wanted.
    Separate,
}

/// An image that was packed, and how what is attested of it is stored.
pub(crate) struct Subject<'a> {
    pub(crate) manifest: &'a Descriptor,
    /// As the manifest has them, bottom first.
    pub(crate) layers: &'a [Digest],
    pub(crate) names: &'a [ImageRef],
    pub(crate) place: Place,
    pub(crate) form: Form,
}

/// What is said of something, without that.
#[derive(Clone, Debug)]
struct Predicate {
    /// Its type.
    kind: &'static str,
    file_name: String,
    body: Value,
}

/// Makes a build's attestations.
pub(crate) struct Attestor<'a> {
    asked: &'a Attestations,
    solver: &'a Solver<'a>,
    id: &'a str,
    /// What the images were made of; `None` where nothing is asked for.
    request: Option<&'a Request>,
    plans: &'a [Plan],
    /// Of each image, what its SBOM covers beside it: names of stages, or the context.
    scanned: Vec<Vec<(String, Output)>>,
    /// The images' packages, once somebody asked.
    inventories: Vec<OnceLock<Inventory>>,
}

impl<'a> Attestor<'a> {
    pub(crate) fn new(
        solver: &'a Solver<'a>,
        asked: &'a Attestations,
        id: &'a str,
        request: Option<&'a Request>,
        plans: &'a [Plan],
        scanned: Vec<Vec<(String, Output)>>,
    ) -> Self {
        let inventories = plans.iter().map(|_| OnceLock::new()).collect();
        Self { asked, solver, id, request, plans, scanned, inventories }
    }

    /// Whether there is something to say there.
    pub(crate) fn is_asked(&self, place: Place) -> bool {
        self.asked.sbom.is_some() || self.provenance(place).is_some()
    }

    /// What is attested of an image that was packed: `index` is its number in the build.
    pub(crate) fn attach(
        &self,
        index: usize,
        image: &Assembled,
        packed: &Subject<'_>,
    ) -> Result<Attached, Error> {
        let names = packed.names.iter().map(|name| purl::of_image(name, &image.platform));
        let predicates = self.predicates(index, image, packed.names, packed.layers, packed.place)?;
        manifest::attach(packed.manifest, &names.collect::<Vec<_>>(), predicates, packed.form)
    }

    /// What is attested of a file tree: names and bytes of files. `subjects` are the tree's files.
    pub(crate) fn files(
        &self,
        index: usize,
        image: &Assembled,
        subjects: &[(String, Digest)],
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let subject =
            |(name, digest): &(String, Digest)| json!({"name": name, "digest": {"sha256": digest.hex()}});
        let subjects: Vec<Value> = subjects.iter().map(subject).collect();
        let mut files = Vec::new();
        for predicate in self.predicates(index, image, &[], &[], Place::Separate)? {
            let bytes = to_json(&manifest::statement(&predicate, &subjects))?;
            files.push((predicate.file_name, bytes));
        }
        Ok(files)
    }

    fn provenance(&self, place: Place) -> Option<&Provenance> {
        self.asked.provenance.as_ref().filter(|asked| place == Place::Inline || !asked.inline_only)
    }

    fn predicates(
        &self,
        index: usize,
        image: &Assembled,
        names: &[ImageRef],
        layers: &[Digest],
        place: Place,
    ) -> Result<Vec<Predicate>, Error> {
        let mut predicates = Vec::new();
        if self.asked.sbom.is_some() {
            let created =
                image.config.created.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
            let created = created.map_or(0, jiff::Timestamp::as_second);
            let name = names.first().map_or_else(|| "image".to_owned(), ImageRef::familiar);
            let created = timestamp(created).unwrap_or_default();
            let about = spdx::About { name: &name, created: created.clone(), layers };
            predicates.push(Predicate {
                kind: spdx::PREDICATE_TYPE,
                file_name: "sbom.spdx.json".to_owned(),
                body: spdx::document(self.inventory(index, image)?, &about),
            });
            for (name, output) in self.scanned.get(index).into_iter().flatten() {
                let about = spdx::About { name, created: created.clone(), layers: &[] };
                predicates.push(Predicate {
                    kind: spdx::PREDICATE_TYPE,
                    file_name: format!("sbom-{name}.spdx.json"),
                    body: spdx::document(&self.take_inventory(output)?, &about),
                });
            }
        }
        if let (Some(asked), Some(request)) = (self.provenance(place), self.request) {
            predicates.push(Predicate {
                kind: provenance::predicate_type(asked.version),
                file_name: asked.file_name.clone(),
                body: self.made(index, image, request, asked)?,
            });
        }
        Ok(predicates)
    }

    /// How an image was made, in the words of `asked`.
    fn made(
        &self,
        index: usize,
        image: &Assembled,
        request: &Request,
        asked: &Provenance,
    ) -> Result<Value, Error> {
        let plan = self.plans.get(index).ok_or_else(|| internal("an image without a plan"))?;
        let capture = Capture::of(request, plan, &self.solver.journal.downloads())?;
        if asked.complete_materials && !capture.is_complete() {
            let locals: Vec<_> = capture.locals.iter().map(String::as_str).collect();
            return Err(Error::user(format!(
                "provenance materials are incomplete: {} come from this machine",
                locals.join(", ")
            ))
            .hinted("build from the address of a repository, or leave out complete-materials"));
        }
        let seconds = |time: Option<SystemTime>| {
            let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or_default()
        };
        let (started, finished) = match image.epoch {
            Some(epoch) => (epoch, epoch),
            None => (seconds(request.started), seconds(Some(SystemTime::now()))),
        };
        let making = Making {
            request,
            capture: &capture,
            plan,
            started: timestamp(started),
            finished: timestamp(finished),
            id: image.epoch.is_none().then_some(self.id),
        };
        Ok(making.predicate(asked))
    }

    /// How the images were made, for the user and as buildx tells it: of SLSA's version 0.2, with the whole request; `Min`
    /// leaves out steps, times and what is noted beside.
    pub(crate) fn tell(
        &self,
        images: &[Assembled],
        mode: ProvenanceMode,
    ) -> Result<Vec<(Platform, Value)>, Error> {
        let Some(request) = self.request else { return Ok(Vec::new()) };
        let asked = Provenance { version: SlsaVersion::V02, ..Provenance::default() };
        let tell = |(index, image): (usize, &Assembled)| {
            let mut made = self.made(index, image, request, &asked)?;
            if mode == ProvenanceMode::Min
                && let Some(keys) = made.as_object_mut()
            {
                keys.retain(|key, _| key != "buildConfig" && key != "metadata");
            }
            Ok((image.platform.clone(), made))
        };
        images.iter().enumerate().map(tell).collect()
    }

    /// The image's packages, read once.
    fn inventory(&self, index: usize, image: &Assembled) -> Result<&Inventory, Error> {
        let slot = self.inventories.get(index).ok_or_else(|| internal("an image without a plan"))?;
        if let Some(inventory) = slot.get() {
            return Ok(inventory);
        }
        let inventory = self.inventory_of_layers(&image.layers)?;
        Ok(slot.get_or_init(|| inventory))
    }

    fn take_inventory(&self, output: &Output) -> Result<Inventory, Error> {
        match output {
            Output::Snapshot(snapshot) => self.inventory_of_layers(&snapshot.layers()),
            Output::Tree(tree) => Ok(self.told(packages::of_tree(tree.as_ref())?)),
        }
    }

    fn inventory_of_layers(&self, layers: &[Layer]) -> Result<Inventory, Error> {
        self.solver.ensure_layers(layers)?;
        let layers: Vec<PathBuf> =
            layers.iter().map(|layer| self.solver.store.layer_path(layer.id)).collect();
        Ok(self.told(packages::of_layers(&layers)?))
    }

    /// Says what is not in an inventory.
    fn told(&self, inventory: Inventory) -> Inventory {
        for what in &inventory.left_out {
            let message = format!("the SBOM is not complete: {what}");
            self.solver.reporter.send(Event::Warning { rule: None, message, span: None });
        }
        inventory
    }
}

fn internal(what: &str) -> Error {
    Error::new(ErrorKind::Environment, format!("internal: {what}"))
}
