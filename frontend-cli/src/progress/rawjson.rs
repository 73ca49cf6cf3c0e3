//! BuildKit's solve status, one JSON object a line: what `buildctl --progress=rawjson` writes, for other programs.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::{Digest, Event, LogStream, StepId};
use serde::Serialize;

use super::Display;
use super::plain::time_of;

/// Writes JSON lines to `out`.
pub(super) struct RawJson<W> {
    out: W,
    start: jiff::Timestamp,
    now: Duration,
    vertexes: HashMap<StepId, Vertex>,
    /// When each part of a step began.
    parts: HashMap<(StepId, String), String>,
}

/// Field names are BuildKit's (`client.SolveStatus`).
#[derive(Default, Serialize)]
struct SolveStatus {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
}

#[derive(Clone, Default, Serialize)]
struct Vertex {
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Serialize)]
struct VertexStatus {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    current: u64,
    timestamp: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct VertexLog {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct VertexWarning {
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: u32,
}

impl<W: Write + Send> RawJson<W> {
    pub(super) fn new(out: W, start: jiff::Timestamp) -> Self {
        Self { out, start, now: Duration::ZERO, vertexes: HashMap::new(), parts: HashMap::new() }
    }

    /// An event's time as RFC 3339.
    fn time(&self, at: Duration) -> String {
        self.start.checked_add(at).unwrap_or(self.start).to_string()
    }

    /// Changes a vertex and tells it whole, as BuildKit does.
    fn tell(&mut self, id: StepId, change: impl FnOnce(&mut Vertex)) -> SolveStatus {
        let vertex = self
            .vertexes
            .entry(id)
            .or_insert_with(|| Vertex { digest: vertex_digest(id), ..Vertex::default() });
        change(vertex);
        SolveStatus { vertexes: vec![vertex.clone()], ..SolveStatus::default() }
    }

    fn status(&mut self, event: &Event) -> Option<SolveStatus> {
        let now = self.time(self.now);
        Some(match event {
            Event::Step { id, name, inputs } => self.tell(*id, |vertex| {
                vertex.name.clone_from(name);
                vertex.inputs = inputs.iter().map(|&input| vertex_digest(input)).collect();
            }),
            Event::Started { id, .. } => self.tell(*id, |vertex| vertex.started = Some(now)),
            Event::Cached { id, .. } => self.tell(*id, |vertex| {
                vertex.started.get_or_insert(now.clone());
                vertex.completed = Some(now);
                vertex.cached = true;
            }),
            Event::Done { id, .. } => self.tell(*id, |vertex| vertex.completed = Some(now)),
            Event::Failed { id, message, .. } => self.tell(*id, |vertex| {
                vertex.completed = Some(now);
                vertex.error.clone_from(message);
            }),
            Event::Canceled { id, .. } => self.tell(*id, |vertex| {
                vertex.completed = Some(now);
                vertex.error = "context canceled".to_owned();
            }),
            Event::Log { id, stream, bytes, .. } => SolveStatus {
                logs: vec![VertexLog {
                    vertex: vertex_digest(*id),
                    stream: if *stream == LogStream::Stdout { 1 } else { 2 },
                    data: STANDARD.encode(bytes),
                    timestamp: now,
                }],
                ..SolveStatus::default()
            },
            Event::Progress { id, part, current, total } => {
                let started = self.parts.entry((*id, part.clone())).or_insert_with(|| now.clone()).clone();
                SolveStatus {
                    statuses: vec![VertexStatus {
                        id: part.clone(),
                        vertex: vertex_digest(*id),
                        total: *total,
                        current: *current,
                        completed: total.is_some_and(|total| *current >= total).then(|| now.clone()),
                        timestamp: now,
                        started,
                    }],
                    ..SolveStatus::default()
                }
            }
            Event::Warning { rule, message, span } => {
                let short = match rule {
                    Some(rule) => format!("{rule}: {message}"),
                    None => message.clone(),
                };
                let range = span.map(|span| Range {
                    start: Position { line: span.line },
                    end: Position { line: span.end_line },
                });
                SolveStatus {
                    warnings: vec![VertexWarning {
                        level: 1,
                        short: STANDARD.encode(short),
                        range: range.into_iter().collect(),
                    }],
                    ..SolveStatus::default()
                }
            }
            _ => return None,
        })
    }
}

impl<W: Write + Send> Display for RawJson<W> {
    fn event(&mut self, event: &Event) {
        if let Some(at) = time_of(event) {
            self.now = self.now.max(at);
        }
        let Some(status) = self.status(event) else { return };
        if let Ok(mut line) = serde_json::to_vec(&status) {
            line.push(b'\n');
            let _ = self.out.write_all(&line);
        }
    }

    fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn pause(&mut self) {
        let _ = self.out.flush();
    }

    fn finish(&mut self, _: Duration) {
        let _ = self.out.flush();
    }
}

/// A name for the step in the form that BuildKit's vertices have.
fn vertex_digest(id: StepId) -> String {
    Digest::of(format!("step {}", id.0).as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    #[test]
    fn each_event_is_one_solve_status() {
        let mut out = Vec::new();
        let mut raw = RawJson::new(&mut out, jiff::Timestamp::UNIX_EPOCH);
        let events = [
            step(1, "[1/1] RUN a"),
            started(1, 1500),
            log(1, b"hi\n", 1600),
            progress(1, "part", 1, 2),
            failed(1, "no", 1700),
        ];
        events.iter().for_each(|event| raw.event(event));
        drop(raw);
        let text = String::from_utf8(out).unwrap().replace(&vertex_digest(StepId(1)), "V");
        insta::assert_snapshot!(text, @r#"
        {"vertexes":[{"digest":"V","name":"[1/1] RUN a"}]}
        {"vertexes":[{"digest":"V","name":"[1/1] RUN a","started":"1970-01-01T00:00:01.5Z"}]}
        {"logs":[{"vertex":"V","stream":1,"data":"aGkK","timestamp":"1970-01-01T00:00:01.6Z"}]}
        {"statuses":[{"id":"part","vertex":"V","total":2,"current":1,"timestamp":"1970-01-01T00:00:01.6Z","started":"1970-01-01T00:00:01.6Z"}]}
        {"vertexes":[{"digest":"V","name":"[1/1] RUN a","started":"1970-01-01T00:00:01.5Z","completed":"1970-01-01T00:00:01.7Z","error":"no"}]}
        "#);
    }
}
