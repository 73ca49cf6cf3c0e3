//! What a build can be asked for, one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_image::registry::RegistryConfig;
use kiln_parser::Mount;
use kiln_remote::CacheSpec;
use kiln_sandbox::{Capabilities, Dns, HostAddress, HostDevice, Resources, SecurityOptions};
use kiln_solver::event::Event;
use kiln_solver::graph::{ExtraGroups, NetworkMode, Volume};
use kiln_solver::plan::Unneeded;
use kiln_solver::solve::{Executor, Isolation};

use super::{Build, DockerfileSource, OutputSpec, SecretSource, SshSource};
use crate::attest::{Attestations, ProvenanceMode};
use crate::output::Annotation;
use crate::storage::Limits;

impl Build {
    /// The Dockerfile's path.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.dockerfile = DockerfileSource::Path(path.as_ref().to_owned());
        self
    }

    /// Where the Dockerfile comes from.
    pub fn dockerfile(mut self, source: DockerfileSource) -> Self {
        self.dockerfile = source;
        self
    }

    /// A further Dockerfile, whose lines follow those before it.
    pub fn more_file(mut self, path: impl AsRef<Path>) -> Self {
        self.more_dockerfiles.push(path.as_ref().to_owned());
        self
    }

    /// An argument for `cpp`, which reads Dockerfiles whose names end in `.in` first.
    pub fn preprocessor_flag(mut self, flag: impl Into<String>) -> Self {
        self.preprocessor_flags.push(flag.into());
        self
    }

    /// The ignore file of a context that is a directory, in place of those that it has.
    pub fn ignore_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ignore_file = Some(path.as_ref().to_owned());
        self
    }

    /// A directory of the context that is the context in its place; the Dockerfile is looked for there, too.
    pub fn context_sub_path(mut self, path: impl AsRef<Path>) -> Self {
        self.context_sub_path = Some(path.as_ref().to_owned());
        self
    }

    /// The store's directory (default: `KILN_ROOT`, else as the design says).
    pub fn root(mut self, root: impl AsRef<Path>) -> Self {
        self.root = Some(root.as_ref().to_owned());
        self
    }

    /// A build argument.
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.push((name.into(), value.into()));
        self
    }

    /// The stage to build.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// A name for the image; several may be given.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.tags.push(name.into());
        self
    }

    /// A label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// A variable of every stage from its start, as if `ENV` stood behind `FROM`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A variable that the image goes without; steps see it.
    pub fn unset_env(mut self, name: impl Into<String>) -> Self {
        self.trim.env.push(name.into());
        self
    }

    /// A label that the image goes without, whoever set it.
    pub fn unset_label(mut self, key: impl Into<String>) -> Self {
        self.trim.labels.push(key.into());
        self
    }

    /// An annotation that manifests and indexes go without.
    pub fn unset_annotation(mut self, key: impl Into<String>) -> Self {
        self.unset_annotations.push(key.into());
        self
    }

    /// Whether a stage has the labels of its base, image or stage; it does unless this says otherwise.
    pub fn inherit_labels(mut self, yes: bool) -> Self {
        self.trim.inherited_labels = !yes;
        self
    }

    /// Leaves the history out of the image's config, that of the base too.
    pub fn omit_history(mut self, yes: bool) -> Self {
        self.omit_history = yes;
        self
    }

    /// Makes all layers of the image one, those of its base among them.
    pub fn squash(mut self, yes: bool) -> Self {
        self.squash = yes;
        self
    }

    /// What becomes of stages that the target does not need.
    pub fn unneeded_stages(mut self, unneeded: Unneeded) -> Self {
        self.unneeded_stages = unneeded;
        self
    }

    /// An image in place of the first stage's base.
    pub fn first_base(mut self, image: impl Into<String>) -> Self {
        self.first_base = Some(image.into());
        self
    }

    /// Builds for every platform that all bases are there for, in place of [`Build::platform`].
    pub fn all_platforms(mut self, yes: bool) -> Self {
        self.all_platforms = yes;
        self
    }

    /// A platform to build for, such as `linux/amd64`; of several, each gets an image, and outputs an index of them.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platforms.push(platform.into());
        self
    }

    /// Runs every step anew.
    pub fn no_cache(mut self, yes: bool) -> Self {
        self.no_cache = yes;
        self
    }

    /// Runs the steps of these stages anew.
    pub fn no_cache_stage(mut self, stage: impl Into<String>) -> Self {
        self.no_cache_stages.push(stage.into());
        self
    }

    /// Runs RUN steps anew whose results are not younger than this.
    pub fn cache_ttl(mut self, lifetime: Duration) -> Self {
        self.cache_ttl = Some(lifetime);
        self
    }

    /// Asks the registry for every base although the store knows the name.
    pub fn pull(mut self, yes: bool) -> Self {
        self.pull = yes;
        self
    }

    /// Never asks a registry.
    pub fn offline(mut self, yes: bool) -> Self {
        self.offline = yes;
        self
    }

    /// Network of RUN steps.
    pub fn network(mut self, network: NetworkMode) -> Self {
        self.network = network;
        self
    }

    /// What root holds in RUN steps; those with `--security=insecure` are without what is dropped.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// What RUN steps are without, or have besides, of what confines them.
    pub fn security_options(mut self, options: SecurityOptions) -> Self {
        self.security_options = options;
        self
    }

    /// A directory or file of the host's in every RUN step. One that the step's user gets is none of the system's, and no
    /// home.
    pub fn volume(mut self, volume: Volume) -> Self {
        self.volumes.push(volume);
        self
    }

    /// A mount of every RUN step, as if it stood in front of its own.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// A device that the host describes (CDI), in every RUN step: `vendor/class=name` as `RUN --device` has it. It is
    /// allowed with that, and has to be there.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.devices.push(name.into());
        self
    }

    /// A device node of the host's in every RUN step.
    pub fn host_device(mut self, device: HostDevice) -> Self {
        self.host_devices.push(device);
        self
    }

    /// Groups that RUN steps are in besides their own.
    pub fn groups(mut self, groups: ExtraGroups) -> Self {
        self.groups = groups;
        self
    }

    /// A line for `/etc/hosts` of RUN steps.
    pub fn add_host(mut self, name: impl Into<String>, address: impl Into<HostAddress>) -> Self {
        self.extra_hosts.push((name.into(), address.into()));
        self
    }

    /// Size of `/dev/shm` in bytes.
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.shm_bytes = Some(bytes);
        self
    }

    /// A resource limit of RUN steps: name as docker has it, soft, hard.
    pub fn ulimit(mut self, name: impl Into<String>, soft: u64, hard: u64) -> Self {
        self.ulimits.push((name.into(), soft, hard));
        self
    }

    /// What becomes of RUN steps where no network of their own can be had.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.settings.isolation = isolation;
        self
    }

    /// How RUN steps resolve names.
    pub fn dns(mut self, dns: Dns) -> Self {
        self.settings.dns = dns;
        self
    }

    /// What the processes of each RUN step may use together; no part of the cache's keys.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.settings.resources = resources;
        self
    }

    /// What runs the processes of RUN steps in place of the embedded sandbox: an [`OciRuntime`](crate::OciRuntime) of the
    /// host's, [`Chroot`](crate::Chroot) where no namespace can be made, or one's own. No part of the cache's keys: who ran a step does not show in what it made.
    pub fn executor(mut self, executor: impl Executor + 'static) -> Self {
        self.executor = Arc::new(executor);
        self
    }

    /// How long each RUN step may run.
    pub fn step_timeout(mut self, limit: Duration) -> Self {
        self.settings.step_timeout = Some(limit);
        self
    }

    /// At most so many steps run at once; 0 is as many as are ready.
    pub fn max_parallelism(mut self, steps: usize) -> Self {
        self.max_parallelism = steps;
        self
    }

    /// How long the build may take.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// A permission: `network.host`, `security.insecure`, `device` for all that `RUN --device` may ask for, or
    /// `device=vendor/class=name` for one.
    pub fn allow(mut self, entitlement: impl Into<String>) -> Self {
        self.allow.push(entitlement.into());
        self
    }

    /// A directory with specifications of devices (CDI) for `RUN --device`, in place of `/etc/cdi` and `/var/run/cdi`;
    /// what a later one says comes before.
    pub fn device_spec_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.device_spec_dirs.push(directory.into());
        self
    }

    /// A named context: a directory, `docker-image://…`, `oci-layout://…`, `oci-archive:…`, a URL.
    pub fn named_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.contexts.push((name.into(), value.into()));
        self
    }

    /// Lets a step keep a secret that it was shown in its layer; else the build fails and names the file.
    pub fn allow_secret_in_layer(mut self, allow: bool) -> Self {
        self.allow_secret_in_layer = allow;
        self
    }

    /// A secret for `RUN --mount=type=secret`.
    pub fn secret(mut self, id: impl Into<String>, source: SecretSource) -> Self {
        self.secrets.push((id.into(), source));
        self
    }

    /// An ssh agent's socket for `RUN --mount=type=ssh`.
    pub fn ssh(mut self, id: impl Into<String>, socket: impl AsRef<Path>) -> Self {
        self.ssh.push((id.into(), SshSource::Agent(socket.as_ref().to_owned())));
        self
    }

    /// Private keys for `RUN --mount=type=ssh`: an agent of the build's own has them.
    pub fn ssh_keys(mut self, id: impl Into<String>, keys: impl IntoIterator<Item = PathBuf>) -> Self {
        self.ssh.push((id.into(), SshSource::Keys(keys.into_iter().collect())));
        self
    }

    /// An output; without any the image goes into the store.
    pub fn output(mut self, output: OutputSpec) -> Self {
        self.outputs.push(output);
        self
    }

    /// A cache in which steps are looked up that the store does not know; several are asked in their order.
    pub fn cache_from(mut self, cache: CacheSpec) -> Self {
        self.cache_from.push(cache);
        self
    }

    /// A cache to which this build's steps are written.
    pub fn cache_to(mut self, cache: CacheSpec) -> Self {
        self.cache_to.push(cache);
        self
    }

    /// A note on the image's manifest or index, in every output that has one.
    pub fn annotation(mut self, annotation: Annotation) -> Self {
        self.annotations.push(annotation);
        self
    }

    /// What is said of the images in their outputs; an index is made then, even of one image.
    pub fn attestations(mut self, asked: Attestations) -> Self {
        self.attestations = asked;
        self
    }

    /// Tells in the result how the images were made, attested or not: with every build argument, and with steps and times
    /// where `mode` is [`ProvenanceMode::Max`].
    pub fn tell_provenance(mut self, mode: ProvenanceMode) -> Self {
        self.told_provenance = Some(mode);
        self
    }

    /// Writes later times in new layers as `SOURCE_DATE_EPOCH`, in every output that is an image.
    pub fn rewrite_timestamp(mut self, yes: bool) -> Self {
        self.rewrite_timestamp = yes;
        self
    }

    /// Runs all steps once more, beside the cache, and compares: see [`differences`](super::BuildResult::differences).
    pub fn verify_reproducible(mut self, yes: bool) -> Self {
        self.verify_reproducible = yes;
        self
    }

    /// How registries are reached; as the environment and its files say unless it is given.
    pub fn registry(mut self, config: RegistryConfig) -> Self {
        self.registry = Some(config);
        self
    }

    /// Asks for an experimental lint rule by its name; `own` is all of kiln's own.
    pub fn lint(mut self, rule: impl Into<String>) -> Self {
        self.lint.push(rule.into());
        self
    }

    /// How much the store may take. Without, as configuration and environment say (see [`Limits::load`]).
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Who is told what happens; called from several threads.
    pub fn on_event(mut self, sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(sink);
        self
    }
}
