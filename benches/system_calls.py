#!/usr/bin/env python3
"""How often a build asks the kernel, and for what.

    benches/system_calls.py --kiln target/x86_64-unknown-linux-gnu/release/kiln [--base ~/.cache/kiln-fixtures/oci/busybox]

Needs strace and the rights to build; best with a static release build. Counts, and not times: the figures are the same on
any machine, whatever else it does. Builds are counted as `strace -f` sees them, all threads and the processes of RUN steps
with them; of several runs the one with the fewest calls counts.
"""

import argparse
import collections
import pathlib
import re
import shutil
import subprocess
import tempfile

CACHED = """\
FROM calls.example/base
ARG VERSION=0
ENV APP_HOME=/app
ENV APP_VERSION=$VERSION
WORKDIR /app
COPY app.txt conf.txt ./
COPY lib ./lib
RUN echo "v=$APP_VERSION" > version.txt
RUN cat lib/m1.txt lib/m2.txt > all.txt
RUN head -c 16 /dev/urandom > /id && chmod 600 conf.txt
CMD ["cat", "/app/version.txt"]
"""
STEPS = 20
FILES, FILES_A_DIRECTORY = 50_000, 100
THREADS = "futex rseq set_robust_list sigaltstack sched_getaffinity gettid rt_sigprocmask clone3 exit prctl".split()
MEMORY = "brk mmap munmap mprotect madvise".split()


class Counter:
    def __init__(self, kiln, work):
        self.kiln, self.work, self.root = kiln, work, work / "store"

    def line(self, *words):
        return [str(word) for word in (self.kiln, "build", "--root", self.root, "--progress=plain", *words)]

    def build(self, *words):
        subprocess.run(self.line(*words), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def counted(self, *words, runs=1):
        """The calls of the run that makes the fewest: the process' number, and what strace says."""
        return min((self.traced(*words) for _ in range(runs)), key=len)

    def traced(self, *words):
        trace = self.work / "trace"
        line = ["strace", "-f", "-qq", "-o", str(trace), *self.line(*words)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        calls, begun = [], {}
        for line in trace.read_text(errors="replace").splitlines():
            process, _, call = line.partition(" ")
            call = call.strip()
            if call.startswith("<... "):
                if process in begun:
                    calls[begun.pop(process)][1] += call.partition("resumed>")[2]
            elif not call.startswith(("+++", "---")):
                if call.endswith("<unfinished ...>"):
                    begun[process] = len(calls)
                    call = call.removesuffix(" <unfinished ...>")
                calls.append([process, call])
        return calls


def cause(call, open_files, store, context):
    """What a call is for: by its name, by the path in it, or by what its descriptor is of."""
    name, _, rest = call.partition("(")
    path = re.search(r'"([^"]*)', rest)
    path = path[1] if path and ("/" in path[1] or name.startswith("open")) else ""
    number = re.match(r"(\d+)\b", rest)
    place = open_files.get(number[1], "") if number else ""
    if not path.startswith("/") or path.startswith("/proc/self/fd/"):
        path = place or path
    result = re.search(r"= (\d+)$", call)
    if name.startswith("open") and result:
        open_files[result[1]] = path
    if name in THREADS:
        return "threads"
    if name in MEMORY:
        return "memory"
    if "db.sqlite" in path or "/dev/urandom" in path or name == "pread64":
        return "database"
    if "/locks/" in path or name == "flock":
        return "locks and leases"
    if path.startswith(store + "/layers"):
        return "layers"
    if path.startswith(context):
        return "context"
    if path.startswith(store):
        return "the rest of the store"
    return "start, signals, configuration, output"


def print_causes(calls, store, context):
    open_files, causes = {}, collections.Counter()
    for _, call in calls:
        causes[cause(call, open_files, str(store), str(context))] += 1
    for name, count in causes.most_common():
        print(f"  {count:5} {name}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kiln", required=True, type=pathlib.Path)
    fixtures = pathlib.Path.home() / ".cache/kiln-fixtures/oci/busybox"
    arguments.add_argument("--base", default=fixtures, type=pathlib.Path, help="an OCI layout of busybox")
    arguments.add_argument("--work", type=pathlib.Path, help="a folder on the file system to measure on")
    given = arguments.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="kiln-calls-", dir=given.work)).resolve()
    try:
        measure(Counter(given.kiln.resolve(), work), given.base.resolve(), work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(counter, base, work):
    (work / "Base").write_text("FROM base\n")
    empty = work / "empty"
    empty.mkdir()
    counter.build("-t", "calls.example/base", "-f", work / "Base", "--build-context", f"base=oci-layout://{base}", empty)

    context = work / "context"
    (context / "lib").mkdir(parents=True)
    for name in ["app.txt", "conf.txt", *(f"lib/m{number}.txt" for number in range(5))]:
        (context / name).write_text(name * 20)
    (work / "Cached").write_text(CACHED)
    # Until the files are old enough to be known by their times, and the log that the first build wrote is folded in.
    words = ["-t", "one", "-f", work / "Cached", context]
    calls = counter.counted(*words, runs=40)
    print(f"nothing changed, 10 steps: {len(calls)}")
    print_causes(calls, counter.root, context)

    text = "FROM calls.example/base\n"
    (work / "Before").write_text(text + "RUN true\n")
    counter.build("-f", work / "Before", empty)
    (work / "Chain").write_text(text + "".join(f"RUN true {number}\n" for number in range(STEPS)))
    calls = counter.traced("-f", work / "Chain", empty)
    starts = [at for at, (_, call) in enumerate(calls) if call.startswith("execve(") and '"true ' in call]
    spans = [after - before for before, after in zip(starts, starts[1:])]
    print(f"a RUN step, with its shell: {spans[0]} (2nd of {STEPS}) to {spans[-1]} (last)")

    many = work / "many"
    for number in range(0, FILES, FILES_A_DIRECTORY):
        folder = many / f"d{number // 10_000}" / f"p{number // FILES_A_DIRECTORY}"
        folder.mkdir(parents=True)
        for file in range(FILES_A_DIRECTORY):
            (folder / f"f{file}").write_text(f"{number + file}\n")
    (work / "Many").write_text("FROM calls.example/base\nCOPY . /src\n")
    words = ["-f", work / "Many", many]
    counter.build(*words)
    calls = counter.counted(*words, runs=3)
    names = collections.Counter(call.partition("(")[0] for _, call in calls)
    print(f"nothing changed, {FILES} files in {FILES // FILES_A_DIRECTORY} directories: {len(calls)}")
    for name, count in names.most_common(6):
        print(f"  {count:5} {name}")


if __name__ == "__main__":
    main()
