//! Parsing and ignore rules: a generated file may be long, and neither may cost more than its length says.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kiln_parser::ignore::{IgnoreMemory, IgnoreRules};

criterion_group!(benches, instructions, one_long_instruction, ignore_rules);
criterion_main!(benches);

const COUNTS: [u64; 4] = [5_000, 10_000, 20_000, 40_000];

/// `count` instructions of fifty bytes each: twenty thousand are a megabyte.
fn instructions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse/instructions");
    for count in COUNTS {
        let mut text = String::from("FROM scratch\n");
        for number in 1..count {
            _ = match number % 4 {
                0 => writeln!(text, "RUN make target-{number} \\\n    VERSION=$VERSION CACHE=/var/cache/x"),
                1 => writeln!(text, "COPY --chown=1000:1000 src/{number}/file.txt ./dest-$VERSION/"),
                2 => writeln!(text, "# about this one\nENV NAME{number}=value-${{VERSION:-1}} B=\"c d\""),
                _ => writeln!(text, "RUN <<EOF\necho {number} and a script of two lines\nEOF"),
            };
        }
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                kiln_parser::parse(black_box(text.as_bytes())).expect("the text above is a Dockerfile")
            });
        });
    }
    group.finish();
}

/// One RUN of `count` continued lines.
fn one_long_instruction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse/continuations");
    for count in COUNTS {
        let text =
            format!("FROM scratch\nRUN true{}\n", " \\\n    && install some-package".repeat(count as usize));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                kiln_parser::parse(black_box(text.as_bytes())).expect("the text above is a Dockerfile")
            });
        });
    }
    group.finish();
}

/// A thousand plain rules and twenty patterns, asked about `count` files in a hundred directories.
fn ignore_rules(criterion: &mut Criterion) {
    let mut text: String =
        (0..1_000).map(|number| format!("dir{}/file{number}.txt\n", number % 100)).collect();
    text.extend((0..20).map(|number| format!("**/*.o{number}\n")));
    let rules = IgnoreRules::parse(text.as_bytes()).expect("these are patterns");
    let mut group = criterion.benchmark_group("parse/ignore");
    for count in COUNTS {
        let paths: Vec<String> =
            (0..count).map(|number| format!("dir{}/file{number}.txt", number % 100)).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                let memory = IgnoreMemory::new(rules.clone());
                paths
                    .iter()
                    .map(|path| memory.verdict(black_box(path)))
                    .for_each(|verdict| _ = black_box(verdict));
            });
        });
    }
    group.finish();
}
