//! Planning: it must stay linear, since a generated Dockerfile may be long.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kiln_parser::Dockerfile;
use kiln_solver::plan::{PlanRequest, plan};

criterion_group!(benches, mixed_instructions, stages_in_a_row);
criterion_main!(benches);

/// One stage of `count` instructions of the usual kinds.
fn mixed_instructions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan/instructions");
    for count in [5_000, 10_000, 20_000, 40_000] {
        let mut text = String::from("FROM scratch\nARG VERSION=1\n");
        for number in 2..count {
            _ = match number % 5 {
                0 => writeln!(text, "RUN make target-{number} VERSION=$VERSION"),
                1 => writeln!(text, "COPY src/{number} ./dest-$VERSION/"),
                2 => writeln!(text, "ENV NAME{}=value-${{VERSION}}", number % 40),
                3 => writeln!(text, "LABEL label.{number}=\"a value\""),
                _ => writeln!(text, "WORKDIR /work/{number}"),
            };
        }
        let file = parse(&text);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| bench.iter(|| plan_once(&file)));
    }
    group.finish();
}

/// `count` stages, each on the one before.
fn stages_in_a_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan/stages");
    for count in [5_000, 10_000, 20_000, 40_000] {
        let mut text = String::from("FROM scratch AS s0\nCOPY a /a\n");
        for number in 1..count {
            _ = writeln!(text, "FROM s{} AS s{number}\nCOPY --from=s0 /a /{number}", number - 1);
        }
        let file = parse(&text);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bench| bench.iter(|| plan_once(&file)));
    }
    group.finish();
}

fn parse(text: &str) -> Dockerfile {
    kiln_parser::parse(text.as_bytes()).expect("the text above is a Dockerfile")
}

fn plan_once(file: &Dockerfile) {
    let platform = "linux/amd64".parse().expect("a platform");
    let request = PlanRequest::new(platform);
    let plan = plan(black_box(file), &request, &mut |name, _| Err(format!("{name} is not needed").into()));
    black_box(plan.expect("a plan"));
}
