//! `kiln build`.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kiln::{
    Annotation, Build, ContextSource, DockerTarget, DockerfileSource, ImageOptions, Isolation, NetworkMode,
    OutputSpec, StepDifference, check_file, write_whole,
};

use super::metadata::Metadata;
use crate::args::call::{self, Method};
use crate::args::ssh::Ssh;
use crate::args::{BuildArgs, PullPolicy, attest, cache, host, output, pair, resource, secret, ssh};
use crate::printable::printable;
use crate::progress::{LogFile, Mode, Progress};
use crate::report::Failure;

pub(super) fn run(args: &BuildArgs, root: Option<&Path>) -> Result<u8, Failure> {
    let mode = mode(args, super::env("BUILDKIT_PROGRESS").as_deref())?;
    let call = call::parse(&args.call, args.check, args.report_format())?;
    if call.method != Method::Build {
        return super::check::run(request(args, root, &[])?, call, mode);
    }
    if args.dry_run {
        return super::forecast::run(request(args, root, &[])?, args.report_format());
    }
    if let Some(policy) = args.legacy.policy() {
        return Err(Failure::usage(format!("--policy {policy}: kiln reads no policies"))
            .with_hint("`kiln lock` and `kiln build --locked` hold a build to sources that were looked at"));
    }
    let outputs = outputs(args)?;
    let build = request(args, root, &outputs)?;
    for flag in args.legacy.ignored() {
        if mode != Mode::Quiet {
            let _ = writeln!(std::io::stderr(), "warning: {flag} is ignored");
        }
    }
    // A script must not find the id of an earlier build after this one failed.
    for path in args.iidfile.iter().chain(&args.iidfile_raw).chain(args.kaniko.files()) {
        check_file(path)?;
        remove(path)?;
    }
    if let Some(path) = &args.metadata_file {
        check_file(path)?;
    }
    let cancel = build.cancel_handle();
    crate::cancel::on_signal(move || cancel.cancel());
    let progress = match &args.logfile {
        Some(path) => {
            let log = LogFile { path: path.clone(), by_platform: args.logsplit };
            Progress::start_in(&log, &super::env)?
        }
        None if args.logsplit => {
            return Err(
                Failure::usage("--logsplit needs --logfile").with_hint("name the file with `--logfile`")
            );
        }
        None => Progress::start(mode, &super::env)?,
    };
    let id = build.id().to_owned();
    let metadata = args.metadata_file.as_ref().map(|path| (path, Metadata::wanted(super::env)));
    let build = match &metadata {
        Some((_, metadata)) => metadata.asked_of(build, progress.sink()),
        None => build.on_event(progress.sink()),
    };
    let built = build.run();
    let summary = progress.finish();
    if args.explain {
        let why = super::explain::of_build(&id, root, args.report_format())?;
        if args.report_format() == Some("json") {
            super::print(&why)?;
        } else {
            let _ = write!(std::io::stderr(), "{why}");
        }
    }
    let built = built.map_err(|error| Failure::from(error).with_step(summary.failed_step))?;
    if let Some(path) = &args.iidfile {
        write_whole(path, built.config_digest.to_string().as_bytes())?;
    }
    if let Some(path) = &args.iidfile_raw {
        write_whole(path, built.config_digest.hex().as_bytes())?;
    }
    for (path, text) in args.kaniko.texts(&built) {
        write_whole(path, text.as_bytes())?;
    }
    if let Some((path, metadata)) = metadata {
        write_whole(path, metadata.text(&built).as_bytes())?;
    }
    if args.quiet {
        super::print(&format!("{}\n", built.config_digest))?;
    }
    match &built.differences {
        None => Ok(0),
        Some(differences) => {
            // Standard output may be an archive.
            let _ = std::io::stderr().write_all(reproducibility(differences).as_bytes());
            Ok(u8::from(!differences.is_empty()))
        }
    }
}

pub(super) fn mode(args: &BuildArgs, variable: Option<&str>) -> Result<Mode, Failure> {
    if args.quiet {
        return match args.progress.as_str() {
            "auto" | "quiet" | "none" => Ok(Mode::Quiet),
            other => Err(Failure::usage(format!("progress={other} and quiet cannot be used together"))),
        };
    }
    Ok(Mode::choose(&args.progress, variable)?)
}

/// What is asked for; whatever only this program can find out (standard input, its environment) is put in.
pub(super) fn request(
    args: &BuildArgs,
    root: Option<&Path>,
    outputs: &[OutputSpec],
) -> Result<Build, Failure> {
    let mut build = Build::new(context(args)?).dockerfile(dockerfile(args)?);
    if let Some(root) = root {
        build = build.root(root);
    }
    build = args.files.iter().skip(1).fold(build, Build::more_file);
    build = args.cpp_flag.iter().fold(build, Build::preprocessor_flag);
    if let Some(path) = &args.ignorefile {
        build = build.ignore_file(path);
    }
    if let Some(path) = &args.context_sub_path {
        build = build.context_sub_path(path);
    }
    let mut files = Vec::new();
    for path in &args.build_arg_files {
        files.extend(arguments_in(path)?);
    }
    build = files.iter().fold(build, |build, (name, value)| build.arg(name, value));
    for text in &args.build_args {
        if let Some((name, value)) = pair::variable("--build-arg", text, &super::env)? {
            build = build.arg(name, value);
        }
    }
    let given = |proxy: &str| {
        let names =
            args.build_args.iter().map(|text| text.split_once('=').map_or(text.as_str(), |(name, _)| name));
        names.chain(files.iter().map(|(name, _)| name.as_str())).any(|name| name.eq_ignore_ascii_case(proxy))
    };
    let proxies = kiln::docker_proxies(&super::env).into_iter().filter(|(name, _)| !given(name));
    build = proxies.fold(build, |build, (name, value)| build.arg(name, value));
    if let Some(image) = &args.from {
        build = build.first_base(image);
    }
    if !args.skip_unused_stages {
        build = build.unneeded_stages(kiln::Unneeded::Built);
    }
    if let Some(target) = args.target.as_deref().filter(|target| !target.is_empty()) {
        build = build.target(target);
    }
    for tag in args.tags.iter().chain(&args.manifest).chain(&args.kaniko.destinations) {
        build = build.tag(tag);
    }
    for text in &args.labels {
        let (key, value) = pair::label(text)?;
        build = build.label(key, value);
    }
    let own = own_platform(args);
    let asked = own.as_ref().map_or(args.platform.as_slice(), std::slice::from_ref);
    for platform in platforms(asked, super::env("DOCKER_DEFAULT_PLATFORM")) {
        build = build.platform(platform);
    }
    build = build.all_platforms(args.all_platforms).max_parallelism(args.jobs);
    for text in &args.env {
        if let Some((name, value)) = pair::variable("--env", text, &super::env)? {
            build = build.env(name, value);
        }
    }
    build = args.unsetlabel.iter().fold(build, Build::unset_label);
    build = args.unsetenv.iter().fold(build, Build::unset_env);
    build = args.unsetannotation.iter().fold(build, Build::unset_annotation);
    build = build.inherit_labels(args.inherit_labels).omit_history(args.omit_history).squash(args.squash);
    build = build.no_cache(args.no_cache).pull(args.pull == PullPolicy::Always).locked(args.locked);
    build = build.offline(args.offline || args.pull == PullPolicy::Never);
    if let Some(text) = &args.cache_ttl {
        let lifetime = kiln::lifetime(text).ok_or_else(|| {
            Failure::usage(format!("--cache-ttl {text}: not a duration"))
                .with_hint("write it as `24h`, `7d` or `1h30m`; `0` is no cache")
        })?;
        build = build.cache_ttl(lifetime);
    }
    for stage in &args.no_cache_filter {
        build = build.no_cache_stage(stage);
    }
    let mut allow = args.allow.clone();
    let network = match args.network.as_str() {
        "default" | "" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => {
            // Asking for it is permission enough (FEATURES CL21).
            allow.push("network.host".to_owned());
            NetworkMode::Host
        }
        // The others are buildah's words for it.
        "isolated" | "private" | "pasta" => {
            build = build.isolation(Isolation::Required);
            NetworkMode::Default
        }
        other => {
            return Err(Failure::usage(format!("network mode `{other}` is not supported"))
                .with_hint("the modes are `default`, `isolated`, `none` and `host`"));
        }
    };
    build = args.steps.apply(args.limits.apply(build.network(network))?)?;
    for entitlement in allow {
        let is_known = matches!(
            entitlement.as_str(),
            "network.host" | "security.insecure" | "buildx.local.delete" | "device"
        ) || entitlement.starts_with("device=");
        if !is_known {
            return Err(Failure::usage(format!("--allow {entitlement}: there is no such entitlement"))
                .with_hint(
                    "the entitlements are `network.host`, `security.insecure`, `device`, \
                     `device=NAME[,alias=WORD]` and `buildx.local.delete`",
                ));
        }
        build = build.allow(entitlement);
    }
    for directory in &args.cdi_spec_dir {
        build = build.device_spec_dir(directory);
    }
    for text in &args.add_host {
        for (name, address) in host::parse(text)? {
            build = build.add_host(name, address);
        }
    }
    if let Some(text) = &args.shm_size {
        // 0 is the default size (FEATURES CL23).
        build = match resource::bytes(text)? {
            0 => build,
            bytes => build.shm_size(bytes),
        };
    }
    for text in &args.ulimit {
        let (name, soft, hard) = resource::ulimit(text)?;
        build = build.ulimit(name, soft, hard);
    }
    for text in &args.contexts {
        let (name, value) = pair::context(text)?;
        build = build.named_context(name, value);
    }
    build = build.allow_secret_in_layer(args.allow_secret_in_layer);
    for text in &args.secrets {
        let (id, source) = secret::parse(text, &super::env)?;
        build = build.secret(id, source);
    }
    for text in &args.ssh {
        build = match ssh::parse(text, &super::env)? {
            (id, Ssh::Socket(socket)) => build.ssh(id, socket),
            (id, Ssh::Keys(keys)) => build.ssh_keys(id, keys),
        };
    }
    for text in &args.cache_from {
        build = cache::parse("--cache-from", text)?.into_iter().fold(build, Build::cache_from);
    }
    for text in &args.cache_to {
        build = cache::parse("--cache-to", text)?.into_iter().fold(build, Build::cache_to);
    }
    for text in &args.annotations {
        for annotation in Annotation::parse(text)? {
            build = build.annotation(annotation);
        }
    }
    build = build.attestations(attest::asked(args)?);
    if let Some(seconds) = args.source_date_epoch.or(args.timestamp) {
        build = build.arg("SOURCE_DATE_EPOCH", seconds.to_string());
    }
    build = build.verify_reproducible(args.verify_reproducible);
    build = build.rewrite_timestamp(args.rewrite_timestamp || args.timestamp.is_some());
    if let Some(size) = args.max_size {
        let mut limits = kiln::storage::Limits::load(&super::env)?;
        limits.max_size = Some(size);
        build = build.limits(limits);
    }
    build = args.lint.iter().fold(build, Build::lint).registry(args.registry.config()?);
    Ok(outputs.iter().cloned().fold(build, Build::output))
}

fn outputs(args: &BuildArgs) -> Result<Vec<OutputSpec>, Failure> {
    let mut outputs: Vec<_> =
        args.outputs.iter().map(|text| output::parse(text)).collect::<Result<_, _>>()?;
    outputs.extend(args.kaniko.outputs());
    if args.push || args.kaniko.pushes() {
        let image = outputs.iter_mut().find_map(|output| match output {
            OutputSpec::Image { options } => Some(options),
            _ => None,
        });
        match image {
            Some(options) => options.push = true,
            None => {
                let mut options = ImageOptions::default();
                options.push = true;
                outputs.push(OutputSpec::Image { options });
            }
        }
    }
    let is_loaded = outputs
        .iter()
        .any(|output| matches!(output, OutputSpec::Docker { to: DockerTarget::Engine { .. }, .. }));
    if args.load && !is_loaded {
        let to = DockerTarget::Engine { context: None };
        outputs.push(OutputSpec::Docker { to, options: ImageOptions::default() });
    }
    let settings = settings(args);
    if !settings.is_empty() {
        if outputs.is_empty() {
            outputs.push(OutputSpec::Image { options: ImageOptions::default() });
        }
        for output in &mut outputs {
            if let OutputSpec::Image { options }
            | OutputSpec::Oci { options, .. }
            | OutputSpec::Docker { options, .. } = output
            {
                for (key, value) in &settings {
                    options.set(key, value).map_err(Failure::from)?;
                }
            }
        }
    }
    let to_stdout = |output: &&OutputSpec| {
        matches!(
            output,
            OutputSpec::Oci { dest: None, .. }
                | OutputSpec::Docker { to: DockerTarget::Stdout, .. }
                | OutputSpec::Tar { dest: None, .. }
        )
    };
    match outputs.iter().filter(to_stdout).count() {
        0 => {}
        1 if args.quiet => {
            return Err(Failure::usage("-q prints an id where the output is to go: standard output"));
        }
        1 if std::io::stdout().is_terminal() => {
            return Err(Failure::usage("an archive is nothing for a terminal")
                .with_hint("name a file with `dest=` or redirect standard output"));
        }
        1 => {}
        _ => return Err(Failure::usage("only one output can go to standard output")),
    }
    let has_no_image =
        |output: &OutputSpec| matches!(output, OutputSpec::Local { .. } | OutputSpec::Tar { .. });
    if (args.iidfile.is_some() || args.iidfile_raw.is_some())
        && !outputs.is_empty()
        && outputs.iter().all(has_no_image)
    {
        return Err(Failure::usage("--iidfile needs an image, but the outputs are files only"));
    }
    Ok(outputs)
}

/// What flags of buildah's say of all outputs that are images (FEATURES CL48, CL65).
fn settings(args: &BuildArgs) -> Vec<(&'static str, &str)> {
    // Who asks for a manifest's digest gets a manifest, where a mere store needs none.
    let types = media_types(args).or_else(|| args.kaniko.files().next().map(|_| "true"));
    let uncompressed = args.disable_compression.then_some("uncompressed");
    let settings = [
        ("oci-mediatypes", types),
        ("compression", args.compression_format.as_deref().or(uncompressed)),
        ("compression-level", args.compression_level.as_deref()),
        ("force-compression", args.force_compression.then_some("true")),
    ];
    settings.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// Whether the image has OCI's media types, where `--format` says so, as buildah has it (FEATURES CL48).
fn media_types(args: &BuildArgs) -> Option<&'static str> {
    match args.format.as_deref()? {
        "oci" => Some("true"),
        "docker" => Some("false"),
        _ => None,
    }
}

fn context(args: &BuildArgs) -> Result<ContextSource, Failure> {
    if args.context == "-" || args.context == "tar://stdin" {
        if args.files.iter().any(|file| file == "-") {
            return Err(Failure::usage("standard input cannot be both the build context and the Dockerfile"));
        }
        return Ok(ContextSource::Stream(Arc::new(Mutex::new(std::io::stdin()))));
    }
    if let Some(url) = args.context.to_str().filter(|text| is_url(text)) {
        return Ok(ContextSource::Url(url.to_owned()));
    }
    let path = Path::new(match args.context.to_str().and_then(|text| text.strip_prefix("dir://")) {
        Some(path) => OsStr::new(path),
        None => &args.context,
    });
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(ContextSource::Directory(path.to_owned())),
        Ok(_) => Err(Failure::usage(format!(
            "unable to prepare context: path \"{}\" is not a directory",
            path.display()
        ))
        .with_hint("name the directory, and the Dockerfile with `-f`")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::usage(format!("unable to prepare context: path \"{}\" not found", path.display())))
        }
        Err(error) => Err(Failure::usage(format!("unable to prepare context: {}: {error}", path.display()))),
    }
}

/// What docker takes for the address of a repository or archive and not for a path.
fn is_url(text: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
        // kaniko's.
        "s3://",
        "gs://",
        "tar://",
    ];
    PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || (is_scp_style(text) && !Path::new(text).exists())
}

/// `user@host:path`, as ssh's scp has it.
fn is_scp_style(text: &str) -> bool {
    let host = text.split_once('@').filter(|(user, _)| !user.contains(['/', ':'])).map(|(_, rest)| rest);
    host.and_then(|rest| rest.split_once(':'))
        .is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
}

fn dockerfile(args: &BuildArgs) -> Result<DockerfileSource, Failure> {
    if let Some(more) = args.files.iter().skip(1).find(|file| *file == "-" || file.contains("://")) {
        return Err(Failure::usage(format!("--file {more}: only the first of several may be no path")));
    }
    match args.files.first().map(String::as_str) {
        None | Some("") => Ok(DockerfileSource::Default),
        Some("-") => {
            let mut text = Vec::new();
            std::io::stdin()
                .take(LONGEST_DOCKERFILE + 1)
                .read_to_end(&mut text)
                .map_err(|error| Failure::file(Path::new("standard input"), &error))?;
            if text.len() as u64 > LONGEST_DOCKERFILE {
                return Err(Failure::usage(format!(
                    "the Dockerfile on standard input is longer than {LONGEST_DOCKERFILE} bytes"
                )));
            }
            Ok(DockerfileSource::Text(text))
        }
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            Ok(DockerfileSource::Url(url.to_owned()))
        }
        Some(path) => Ok(DockerfileSource::Path(path.into())),
    }
}

/// The build arguments that a file sets (FEATURES AS25).
fn arguments_in(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
    let mut arguments = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{}:{number}", path.display());
        arguments.extend(pair::variable(&place, line, &super::env)?);
    }
    Ok(arguments)
}

/// The platform whose parts are asked for one by one (FEATURES CL44).
fn own_platform(args: &BuildArgs) -> Option<String> {
    if args.arch.is_none() && args.os.is_none() && args.variant.is_none() {
        return None;
    }
    let host = kiln::Platform::host();
    let mut name = format!(
        "{}/{}",
        args.os.as_deref().unwrap_or(&host.os),
        args.arch.as_deref().unwrap_or(&host.architecture)
    );
    if let Some(variant) = &args.variant {
        name += &format!("/{variant}");
    }
    Some(name)
}

/// The platforms asked for; `local` is this machine's. Without any it is the engine's choice.
fn platforms(flags: &[String], default: Option<String>) -> Vec<String> {
    let default = default.filter(|_| flags.is_empty());
    let platforms = flags.iter().chain(&default).flat_map(|flag| flag.split(','));
    let platforms: Vec<&str> = platforms.map(str::trim).filter(|name| !name.is_empty()).collect();
    match platforms.as_slice() {
        // As if nothing had been said: a base for another platform is taken as it is.
        ["local"] => Vec::new(),
        platforms => platforms
            .iter()
            .map(|&name| match name {
                "local" => kiln::Platform::host().to_string(),
                name => name.to_owned(),
            })
            .collect(),
    }
}

/// What `--verify-reproducible` found.
fn reproducibility(differences: &[StepDifference]) -> String {
    if differences.is_empty() {
        return "reproducible: every step made the same files twice\n".to_owned();
    }
    let mut text = "not reproducible:\n".to_owned();
    for step in differences {
        text += &format!("  {}\n", printable(&step.step));
        for file in step.files.iter().take(MOST_FILES_SHOWN) {
            let words: Vec<_> = file.changes.iter().map(|change| change.word()).collect();
            let sizes = match (file.old_bytes, file.new_bytes) {
                (Some(old), Some(new)) if old != new => format!(" ({old} and {new} bytes)"),
                _ => String::new(),
            };
            let path = file.path.display().to_string();
            text += &format!("    /{}: {}{sizes}\n", printable(&path), words.join(", "));
        }
        match step.files.len() {
            0 => text += "    what it removes\n",
            count if count > MOST_FILES_SHOWN => {
                text += &format!("    and {} more\n", count - MOST_FILES_SHOWN);
            }
            _ => {}
        }
    }
    text
}

/// Of one step.
const MOST_FILES_SHOWN: usize = 100;

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::file(path, &error)),
        _ => Ok(()),
    }
}

/// Of a Dockerfile that comes through a pipe.
const LONGEST_DOCKERFILE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for url in ["https://x/y.git#main", "git@github.com:a/b", "github.com/a/b", "git://x"] {
            assert!(is_url(url), "{url}");
        }
        for path in [".", "/a", "x.git", "githubXcom/a", "http"] {
            assert!(!is_url(path), "{path}");
        }
    }

    #[test]
    fn the_platform_is_the_flags_or_the_variables() {
        let default = || Some("linux/arm64".to_owned());
        let flags = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(platforms(&flags(&[]), default()), ["linux/arm64"]);
        assert_eq!(platforms(&flags(&["local"]), default()), [""; 0]);
        let several = flags(&["linux/amd64,linux/arm64", "linux/riscv64"]);
        assert_eq!(platforms(&several, default()), ["linux/amd64", "linux/arm64", "linux/riscv64"]);
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("iid");
        std::fs::write(&path, "old").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
