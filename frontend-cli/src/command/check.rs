//! `kiln build --check` and `--call=outline|targets`: tells about a Dockerfile and builds nothing.
//!
//! The JSON has the keys of buildx (`--call=…,format=json`), so that editors and CI read either.

use std::fmt::Write as _;

use base64::Engine as _;
use kiln::{
    Build, CheckReport, DockerfileName, OutlineMount, OutlineReport, ParseErrors, Span, TargetsReport,
};
use serde::Serialize;

use crate::args::call::{Call, Format, Method};
use crate::printable::printable;
use crate::progress::{Mode, Progress};
use crate::report::{self, Failure, Paint};
use crate::table::table;

/// Answers `call`; returns the exit status.
pub(super) fn run(build: Build, call: Call, mode: Mode) -> Result<u8, Failure> {
    if call.method == Method::Describe {
        super::print(&describe(call.format)?)?;
        return Ok(0);
    }
    let cancel = build.cancel_handle();
    crate::cancel::on_signal(move || cancel.cancel());
    let progress = Progress::start(mode, &super::env)?;
    let build = build.on_event(progress.sink());
    match call.method {
        Method::Outline => {
            let report = build.outline();
            progress.finish();
            super::print(&outline(&report?, call.format)?)?;
            Ok(0)
        }
        Method::Targets => {
            let report = build.targets();
            progress.finish();
            super::print(&targets(&report?, call.format)?)?;
            Ok(0)
        }
        _ => {
            let report = build.check();
            progress.finish();
            let report = report?;
            super::print(&check(&report, call.format, Paint::for_stdout())?)?;
            match report.error {
                Some(error) => Err(error.into()),
                None => Ok(u8::from(!report.findings.is_empty() && !call.ignore_status)),
            }
        }
    }
}

fn check(report: &CheckReport, format: Format, paint: Paint) -> Result<String, Failure> {
    match format {
        Format::Json => super::json(&CheckDocument::new(report)),
        Format::Text => Ok(check_text(report, paint)),
    }
}

fn check_text(report: &CheckReport, paint: Paint) -> String {
    let mut text = match (report.findings.len(), &report.error) {
        (0, Some(_)) => String::new(),
        (0, None) => "Check complete, no warnings found.\n".to_owned(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!\n"),
    };
    let source = String::from_utf8_lossy(&report.dockerfile);
    for finding in &report.findings {
        text.push('\n');
        text += &report::draw_finding(finding, &report.dockerfile_name, &source, paint);
    }
    text
}

fn outline(report: &OutlineReport, format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        return super::json(&OutlineDocument::new(report));
    }
    let outline = &report.outline;
    let mut text = String::new();
    if !outline.name.is_empty() || outline.description.is_some() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let _ = writeln!(text, "TARGET:      {}", printable(name));
        if let Some(description) = &outline.description {
            let _ = writeln!(text, "DESCRIPTION: {}", printable(description));
        }
        text.push('\n');
    }
    let args = outline.args.iter().map(|arg| {
        vec![
            arg.name.clone(),
            arg.value.clone().unwrap_or_default(),
            arg.description.clone().unwrap_or_default(),
        ]
    });
    push_table(&mut text, &["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect());
    let mounts = |list: &[OutlineMount]| {
        let required = |mount: &OutlineMount| if mount.required { "true".to_owned() } else { String::new() };
        list.iter().map(|mount| vec![mount.id.clone(), required(mount)]).collect()
    };
    push_table(&mut text, &["SECRET", "REQUIRED"], mounts(&outline.secrets));
    push_table(&mut text, &["SSH", "REQUIRED"], mounts(&outline.ssh));
    let caches = outline.caches.iter().map(|mount| vec![mount.id.clone()]);
    push_table(&mut text, &["CACHE"], caches.collect());
    Ok(text)
}

fn push_table(text: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        *text += &trimmed(&table(head, &rows));
        text.push('\n');
    }
}

fn targets(report: &TargetsReport, format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        return super::json(&TargetsDocument::new(report));
    }
    let rows = report.targets.iter().map(|target| {
        let name = match (target.name.as_str(), target.is_default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        vec![name, target.description.clone().unwrap_or_default()]
    });
    Ok(trimmed(&table(&["TARGET", "DESCRIPTION"], &rows.collect::<Vec<_>>())))
}

fn describe(format: Format) -> Result<String, Failure> {
    const METHODS: [(&str, &str); 4] = [
        ("outline", "List all parameters current build target supports"),
        ("targets", "List all targets current build supports"),
        ("lint", "Lint a Dockerfile"),
        ("subrequests.describe", "List available subrequest types"),
    ];
    const VERSION: &str = "1.0.0";
    match format {
        Format::Json => super::json(&METHODS.map(|(name, description)| {
            MethodDocument {
                name: format!("frontend.{name}"),
                version: VERSION,
                kind: "rpc",
                description,
                opts: match name {
                    "outline" => {
                        Some(vec![NamedDocument { name: "target", description: "Target build stage" }])
                    }
                    "targets" | "lint" => Some(Vec::new()),
                    _ => None,
                },
                inputs: None,
                metadata: ["result.json", "result.txt", "result.statuscode"]
                    .into_iter()
                    .filter(|key| name == "lint" || *key != "result.statuscode")
                    .map(|name| NamedDocument { name, description: "" })
                    .collect(),
                refs: None,
            }
        })),
        Format::Text => {
            let rows = METHODS.map(|(name, text)| vec![name.to_owned(), VERSION.to_owned(), text.to_owned()]);
            Ok(table(&["NAME", "VERSION", "DESCRIPTION"], &rows))
        }
    }
}

fn trimmed(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckDocument<'a> {
    warnings: Vec<WarningDocument<'a>>,
    sources: Vec<SourceDocument<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<ErrorDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningDocument<'a> {
    rule_name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct SourceDocument<'a> {
    filename: &'a str,
    language: &'static str,
    data: String,
}

#[derive(Serialize)]
struct ErrorDocument {
    message: String,
    location: Location,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    source_index: u32,
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: u32,
    character: u32,
}

impl<'a> CheckDocument<'a> {
    fn new(report: &'a CheckReport) -> Self {
        let warnings = report.findings.iter().map(|finding| WarningDocument {
            rule_name: finding.rule.name,
            description: finding.rule.description,
            url: finding.rule.url(),
            detail: &finding.message,
            location: Location::of(Some(finding.span)).in_files(&report.dockerfile_name),
        });
        Self {
            warnings: warnings.collect(),
            sources: SourceDocument::all(report),
            build_error: report
                .error
                .as_ref()
                .map(|error| ErrorDocument::new(error, &report.dockerfile_name)),
        }
    }
}

impl<'a> SourceDocument<'a> {
    /// The files of the Dockerfile: most often one.
    fn all(report: &'a CheckReport) -> Vec<Self> {
        let lines: Vec<&[u8]> = report.dockerfile.split_inclusive(|byte| *byte == b'\n').collect();
        let firsts = report.dockerfile_name.files().map(|(_, first)| first as usize - 1);
        let ends = firsts.skip(1).chain([lines.len()]);
        report
            .dockerfile_name
            .files()
            .zip(ends)
            .map(|((filename, first), end)| {
                let own = lines.get(first as usize - 1..end).unwrap_or_default().concat();
                Self { filename, language: "Dockerfile", data: base64(&own) }
            })
            .collect()
    }
}

impl ErrorDocument {
    /// In BuildKit's form: a mistake of the text names its line, and the suggestion stands in brackets.
    fn new(error: &kiln::Error, name: &DockerfileName) -> Self {
        let label = error.labels.first();
        let mut message = error.message.clone();
        if let Some(hint) = label.and_then(|label| label.hint.as_ref()).or(error.hint.as_ref())
            && hint.starts_with("did you mean")
        {
            let _ = write!(message, " ({hint})");
        }
        let is_parse_error = error.source.as_ref().is_some_and(|cause| cause.is::<ParseErrors>());
        if let Some(label) = label.filter(|_| is_parse_error) {
            message = format!("dockerfile parse error on line {}: {message}", name.place(label.span.line).2);
        }
        Self { message, location: Location::of(label.map(|label| label.span)).in_files(name) }
    }
}

impl Location {
    /// A range for each line, as BuildKit has it, which knows no columns.
    fn of(span: Option<Span>) -> Self {
        let lines = span.into_iter().flat_map(|span| span.line..=span.end_line.max(span.line));
        let ranges = lines.map(|line| Range {
            start: Position { line, character: 0 },
            end: Position { line, character: 0 },
        });
        Self { source_index: 0, ranges: ranges.collect() }
    }

    /// Counts the lines in the file that they stand in.
    fn in_files(mut self, name: &DockerfileName) -> Self {
        if let Some(first) = self.ranges.first() {
            let (index, _, line) = name.place(first.start.line);
            let before = first.start.line - line;
            self.source_index = u32::try_from(index).unwrap_or(0);
            for range in &mut self.ranges {
                range.start.line -= before;
                range.end.line -= before;
            }
        }
        self
    }
}

#[derive(Serialize)]
struct OutlineDocument<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgDocument<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<MountDocument<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<MountDocument<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<CacheDocument<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct ArgDocument<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    location: Location,
}

#[derive(Serialize)]
struct MountDocument<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Serialize)]
struct CacheDocument<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    location: Location,
}

impl<'a> OutlineDocument<'a> {
    fn new(report: &'a OutlineReport) -> Self {
        let outline = &report.outline;
        let args = outline.args.iter().map(|arg| ArgDocument {
            name: &arg.name,
            description: arg.description.as_deref(),
            // BuildKit leaves an empty one out.
            value: arg.value.as_deref().filter(|value| !value.is_empty()),
            location: Location::of(Some(arg.span)),
        });
        let cache = outline
            .caches
            .iter()
            .map(|mount| CacheDocument { id: &mount.id, location: Location::of(Some(mount.span)) });
        Self {
            name: &outline.name,
            description: outline.description.as_deref(),
            args: args.collect(),
            secrets: mounts(&outline.secrets),
            ssh: mounts(&outline.ssh),
            cache: cache.collect(),
            sources: [base64(&report.dockerfile)],
        }
    }
}

fn mounts<'a>(list: &'a [OutlineMount]) -> Vec<MountDocument<'a>> {
    let document = |mount: &'a OutlineMount| MountDocument {
        name: &mount.id,
        required: mount.required,
        location: Location::of(Some(mount.span)),
    };
    list.iter().map(document).collect()
}

#[derive(Serialize)]
struct TargetsDocument<'a> {
    targets: Vec<TargetDocument<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetDocument<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "default", skip_serializing_if = "std::ops::Not::not")]
    is_default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    location: Location,
}

impl<'a> TargetsDocument<'a> {
    fn new(report: &'a TargetsReport) -> Self {
        let targets = report.targets.iter().map(|target| TargetDocument {
            name: &target.name,
            is_default: target.is_default,
            description: target.description.as_deref(),
            base: &target.base,
            platform: target.platform.as_deref(),
            location: Location::of(Some(target.span)),
        });
        Self { targets: targets.collect(), sources: [base64(&report.dockerfile)] }
    }
}

#[derive(Serialize)]
struct MethodDocument {
    name: String,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<Vec<NamedDocument>>,
    inputs: Option<Vec<NamedDocument>>,
    metadata: Vec<NamedDocument>,
    refs: Option<Vec<NamedDocument>>,
}

/// An option of a method, or a result that it has.
#[derive(Serialize)]
struct NamedDocument {
    name: &'static str,
    description: &'static str,
}

/// Bytes as Go writes them in JSON.
fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
