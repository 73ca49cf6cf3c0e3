//! How builds grow: with steps, files, layers below a step, and records in the store. Each curve has to be linear or better.
//!
//! Everything but the `RUN` of `growth/layers` is found in the cache: what is timed is what kiln itself costs. With
//! `--test` only the smallest size of each curve is run.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kiln::{Build, DockerfileSource};
use kiln_cache::{Lookup, NewRecord, StepKey, Store};
use kiln_image::Digest;

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = steps, files, layers, records
}
criterion_main!(benches);

/// A store and a context, removed at the end.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("context")).expect("a context");
        Self { dir }
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn build(&self, dockerfile: &str) -> Build {
        Build::from_context(self.context())
            .dockerfile(DockerfileSource::Text(dockerfile.into()))
            .root(self.store())
    }
}

/// Each file in a directory of its own.
const APART: &str = "/d{}/";

fn sizes(all: &[u64]) -> &[u64] {
    if std::env::args().any(|argument| argument == "--test") { &all[..1] } else { all }
}

/// Copies of different files, each a layer; `{}` in `to` is the file's number.
fn copies(bench: &Bench, count: u64, to: &str) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        write(&bench.context().join(number.to_string()));
        _ = writeln!(text, "COPY {number} {}", to.replace("{}", &number.to_string()));
        text
    })
}

fn write(path: &Path) {
    fs::write(path, path.as_os_str().as_encoded_bytes()).expect("a file");
}

fn steps(criterion: &mut Criterion) {
    for (name, to) in [("growth/steps", APART), ("growth/steps in one directory", "/srv/app/{}")] {
        let mut group = criterion.benchmark_group(name);
        for &count in sizes(&[10, 100, 1_000]) {
            let bench = Bench::new();
            let dockerfile = format!("FROM scratch\n{}", copies(&bench, count, to));
            bench.build(&dockerfile).run().expect("a first build");
            group.throughput(Throughput::Elements(count));
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| bench.build(&dockerfile).run().expect("a build"));
            });
        }
        group.finish();
    }
}

fn files(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth/files");
    for &count in sizes(&[1_000, 10_000, 50_000, 200_000]) {
        let bench = Bench::new();
        for number in 0..count {
            let dir = bench.context().join((number / 100).to_string());
            if number % 100 == 0 {
                fs::create_dir(&dir).expect("a directory");
            }
            write(&dir.join(number.to_string()));
        }
        let dockerfile = "FROM scratch\nCOPY . /\n";
        bench.build(dockerfile).run().expect("a first build");
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| bench.build(dockerfile).run().expect("a build"));
        });
    }
    group.finish();
}

/// A `RUN`, each time another, on so many layers. Needs root and a static busybox.
fn layers(criterion: &mut Criterion) {
    const BUSYBOX: &str = "/bin/busybox";
    if !Path::new(BUSYBOX).exists() {
        criterion.bench_function(&format!("growth/layers: no {BUSYBOX}, not run"), |_| {});
        return;
    }
    let mut group = criterion.benchmark_group("growth/layers");
    for &count in sizes(&[2, 30, 60, 120, 600]) {
        let bench = Bench::new();
        fs::copy(BUSYBOX, bench.context().join("sh")).expect("a copy of busybox");
        let below = copies(&bench, count - 1, APART);
        let dockerfile = format!("FROM scratch\nCOPY sh /bin/sh\n{below}ARG ROUND\nRUN : $ROUND\n");
        let mut round = 0_u32;
        let mut run = || {
            round += 1;
            bench.build(&dockerfile).arg("ROUND", round.to_string()).run().expect("a build")
        };
        run();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| bencher.iter(&mut run));
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth/records");
    for &count in sizes(&[0, 1_000, 10_000, 100_000]) {
        let bench = Bench::new();
        fill(&bench.store(), count);
        let dockerfile = format!("FROM scratch\n{}", copies(&bench, 10, APART));
        bench.build(&dockerfile).run().expect("a first build");
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| bench.build(&dockerfile).run().expect("a build"));
        });
    }
    group.finish();
}

/// Records of steps that changed nothing.
fn fill(root: &Path, count: u64) {
    let store = Store::open(root).expect("a store");
    for number in 0..count {
        let key = StepKey(Digest::of(&number.to_le_bytes()));
        let found = store.find_or_claim(&key, &mut |_| {}, &AtomicBool::new(false)).expect("a claim");
        let Lookup::Missing(claim) = found else { continue };
        let record = NewRecord { name: format!("RUN make {number}"), ..NewRecord::default() };
        claim.commit_layers(Vec::new(), record).expect("a record");
    }
}
