//! Packing and unpacking layers: many small files, and few large ones.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kiln_image::layer::{Compression, OverlayXattrs, compress, pack, unpack};

/// Makes `files` files of `size` bytes each, 50 in a directory, with contents that compress about as programs do.
fn make_tree(root: &Path, files: usize, size: usize) {
    let mut state = 1_u32;
    let mut data: Vec<u8> = vec![0; size];
    for number in 0..files {
        for chunk in data.chunks_mut(8) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bytes = state.to_le_bytes();
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = if at < 4 { bytes[at] } else { bytes[3] & 7 };
            }
        }
        let dir = root.join(format!("dir{}", number / 50));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file{number}")), &data).unwrap();
    }
}

fn benches(criterion: &mut Criterion) {
    for (name, files, size) in [("small", 2000, 2000), ("large", 4, 8 << 20)] {
        let tree = tempfile::tempdir().unwrap();
        make_tree(tree.path(), files, size);
        let root = File::open(tree.path()).unwrap();
        let mut tar = Vec::new();
        pack(root.as_fd(), OverlayXattrs::Trusted, &mut tar).unwrap();

        let mut group = criterion.benchmark_group(format!("layer/{name}"));
        group.sample_size(10).throughput(Throughput::Bytes(tar.len() as u64));
        group.bench_function("pack", |bencher| {
            bencher.iter(|| pack(root.as_fd(), OverlayXattrs::Trusted, &mut io::sink()).unwrap());
        });
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut blob = compress(Vec::new(), how, None).unwrap();
            blob.write_all(&tar).unwrap();
            let blob = blob.finish().unwrap();
            group.bench_function(format!("unpack {how:?}"), |bencher| {
                bencher.iter_batched(
                    || tempfile::tempdir().unwrap(),
                    |target| {
                        let root = File::open(target.path()).unwrap();
                        black_box(unpack(&mut &blob[..], root.as_fd(), OverlayXattrs::Trusted).unwrap());
                        // Returned, so that removing it is not measured.
                        target
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(layer, benches);
criterion_main!(layer);
