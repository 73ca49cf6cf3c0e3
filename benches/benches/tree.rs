//! Hashing trees: a layer's contents digest, and a context with and without its file-hash index.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kiln_cache::{ContextTree, LayerTree, SourceTree as _, selection_digest, tree_digest};

const FILES: usize = 5000;

fn make_tree(root: &Path) {
    for number in 0..FILES {
        let dir = root.join(format!("pkg{}/src", number / 40));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file{number}.rs")), format!("// {number}\n").repeat(300)).unwrap();
    }
}

fn benches(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    make_tree(dir.path());
    let store = tempfile::tempdir().unwrap();
    let index = store.path().join("index");

    let mut group = criterion.benchmark_group("tree");
    group.sample_size(10).throughput(Throughput::Elements(FILES as u64));
    group.bench_function("tree_digest", |bencher| bencher.iter(|| tree_digest(dir.path()).unwrap()));

    let digest_context = |index: Option<&Path>| {
        let tree = ContextTree::open(dir.path(), None, index).unwrap();
        let entries = tree.walk(Path::new("")).unwrap();
        let digests = tree.digests(&entries).unwrap();
        (selection_digest(&entries, &digests), tree.files_hashed())
    };
    group.bench_function("context, all files read", |bencher| bencher.iter(|| digest_context(None)));
    // The index keeps digests of files only that were left alone for a while.
    let deadline = SystemTime::now() + Duration::from_secs(10);
    while digest_context(Some(&index)).1 > 0 && SystemTime::now() < deadline {}
    group.bench_function("context, all files known", |bencher| bencher.iter(|| digest_context(Some(&index))));

    group.bench_function("walk of one layer", |bencher| {
        bencher.iter(|| LayerTree::open(&[dir.path()]).unwrap().walk(Path::new("")).unwrap());
    });
    group.finish();
}

criterion_group!(tree, benches);
criterion_main!(tree);
