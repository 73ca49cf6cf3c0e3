# The two commands of the README, and the static release binary.
host := $(shell rustc -vV | sed -n 's/^host: //p')
release := target/$(host)/release
prefix ?= /usr/local

.PHONY: build demo test check install packages bench

# glibc is linked in statically; naming the target keeps that flag away from build scripts and procedural macros.
build:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(host) -p kiln-cli
	ln -sf kiln $(release)/build

demo: packages build
	fixtures/demo.sh $(release)/kiln

test: packages
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace --locked --no-fail-fast && cargo test --workspace --locked --doc; \
	else \
	  cargo test --workspace --locked --no-fail-fast; \
	fi

# Each benchmark once, untimed and without optimisation: that they still run. `cargo bench` measures.
bench:
	cargo bench -p kiln-benches --locked --profile dev -- --test

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

packages:
	fixtures/packages.sh

install: build
	install -D $(release)/kiln $(prefix)/bin/kiln
	ln -sf kiln $(prefix)/bin/build
