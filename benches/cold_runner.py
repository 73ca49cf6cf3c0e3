#!/usr/bin/env python3
"""What a cold CI runner moves: a cache in a registry, an empty store, one source file changed.

    benches/cold_runner.py --kiln target/release/kiln [--base ~/.cache/kiln-fixtures/oci/debian] [--work /tmp/cold]

Needs docker-registry, skopeo, and the rights to build. A first machine builds, pushes the image and its cache. Then
each case begins with an empty store. Bytes are those of the answers in the registry's log, and those of the layers that
the image and its cache have: what a builder moves that pulls the base and everything in the cache it uses.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.request

DOCKERFILE = """\
FROM {host}/base AS build
# What a package manager downloads: only steps of this stage need it.
RUN head -c 60000000 /dev/urandom > /dependencies
COPY compiled.txt /src/
RUN sha256sum /src/compiled.txt > /program
FROM {host}/base
RUN head -c 20000000 /dev/urandom > /runtime
COPY --link --from=build /program /usr/bin/program
COPY plain.txt /srv/
COPY --link page.txt /srv/
CMD ["cat", "/srv/page.txt"]
"""
MANIFESTS = ", ".join(
    f"application/vnd.oci.image.{kind}.v1+json" for kind in ("manifest", "index")
)


class Registry:
    def __init__(self, work):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = "127.0.0.1:%d" % probe.getsockname()[1]
        config = work / "registry.yml"
        config.write_text(
            "version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: \"%s\"}\n"
            % (work / "registry", self.host)
        )
        self.log = work / "registry.log"
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=self.log.open("w")
        )
        while True:
            try:
                return urllib.request.urlopen("http://%s/v2/" % self.host).close()
            except OSError:
                time.sleep(0.05)

    def position(self):
        return self.log.stat().st_size

    def served(self, since):
        """Bytes of blobs and manifests that were read since then, and the number of requests."""
        # The log is behind the answers.
        while True:
            before = self.position()
            time.sleep(0.2)
            if before == self.position():
                break
        text = self.log.read_bytes()[since:].decode()
        lines = [line for line in text.splitlines() if "response completed" in line]
        reads = [line for line in lines if "http.request.method=GET" in line]
        return sum(int(re.search(r"response.written=(\d+)", line)[1]) for line in reads), len(lines)

    def get(self, path):
        request = urllib.request.Request("http://%s/v2/%s" % (self.host, path), headers={"Accept": MANIFESTS})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def layer_bytes(self, repository, tag="latest"):
        manifest = self.get("%s/manifests/%s" % (repository, tag))
        return {layer["digest"]: layer["size"] for layer in manifest["layers"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kiln", required=True, type=pathlib.Path)
    parser.add_argument("--base", default=pathlib.Path.home() / ".cache/kiln-fixtures/oci/debian")
    parser.add_argument("--work", default="/tmp/kiln-cold-runner", type=pathlib.Path)
    arguments = parser.parse_args()
    work = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    (work / "context").mkdir(parents=True)
    registry = Registry(work)
    try:
        run(arguments, work, registry)
    finally:
        registry.process.terminate()
        registry.process.wait()


def run(arguments, work, registry):
    host = registry.host
    copy = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]
    subprocess.run([*copy, "oci:%s" % arguments.base, "docker://%s/base:latest" % host], check=True)
    context = work / "context"
    (context / "Dockerfile").write_text(DOCKERFILE.format(host=host))
    sources = ("compiled.txt", "page.txt", "plain.txt")

    def build(store, *words):
        """Seconds, bytes read, requests."""
        shutil.rmtree(work / store, ignore_errors=True)
        since, start = registry.position(), time.monotonic()
        subprocess.run(
            [arguments.kiln.resolve(), "build", "-q", *words, str(context)],
            check=True,
            env={**os.environ, "KILN_ROOT": str(work / store)},
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - start
        return (seconds, *registry.served(since))

    for name in sources:
        (context / name).write_text("first\n")
    cache = "type=registry,ref=%s/cache" % host
    build("first", "-t", "%s/app" % host, "--push", "--cache-to", cache + ",mode=max")
    base, cached = registry.layer_bytes("base"), registry.layer_bytes("cache")
    whole = sum({**base, **cached}.values())
    print("| changed | MB read | requests | seconds |\n| --- | --- | --- | --- |")

    def row(what, seconds, size, requests):
        print("| %s | %.2f | %d | %.2f |" % (what, size / 1e6, requests, seconds))

    push = ("-t", "%s/app" % host, "--push", "--cache-from", cache)
    row("nothing; pushed", *build("runner", *push))
    (context / "page.txt").write_text("second\n")
    row("a file that `COPY --link` adds; pushed", *build("runner", *push))
    # As it was: what is in the cache is the first one's.
    (context / "page.txt").write_text("first\n")
    (context / "plain.txt").write_text("second\n")
    row("a file that `COPY` adds, which looks where it copies to; pushed", *build("runner", *push))
    (context / "plain.txt").write_text("first\n")
    (context / "compiled.txt").write_text("second\n")
    row("a file that a step of an earlier stage reads; pushed", *build("runner", *push))
    row("the same, the image kept in the store and not pushed", *build("runner", "-t", "app", "--cache-from", cache))
    (context / "compiled.txt").write_text("third\n")
    row("no cache, the base pulled when a step runs", *build("runner", *push[:3]))
    print("| base and whole cache: a builder that is not lazy | %.2f | | |" % (whole / 1e6))


if __name__ == "__main__":
    main()
