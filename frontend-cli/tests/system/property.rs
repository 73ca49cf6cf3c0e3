//! A cached build gives what a build from nothing gives: random Dockerfiles over a small vocabulary, random edits.
//!
//! `KILN_PROPERTY_PAIRS` says how many pairs of builds are compared, `KILN_PROPERTY_SEED` which.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln::images::Images;
use kiln::{Build, DockerfileSource, OutputSpec};
use kiln_cache::{CheckDepth, Store};
use kiln_fixtures::{Bases, Context};

use crate::kiln::{Kiln, is_root_to};
use crate::random::{Random, from_env};

const PAIRS: u64 = 96;
/// A project is edited so often before the next one.
const EDITS: u64 = 24;
/// A project whose builds fail so often is given up.
const MOST_FAILURES_IN_A_ROW: u64 = 2;
/// A long run says after so many that it goes on.
const REPORT: u64 = 200;

#[test]
fn a_cached_build_gives_what_a_build_from_nothing_gives() {
    // `sandbox/tests/rootless.sh` runs it in a user namespace: a test is no program that could enter one.
    if !is_root_to("build in the test's own process", "cached and uncached builds") {
        return;
    }
    let Some(bases) = Bases::get_or_skip("cached and uncached builds") else { return };
    let base = format!("{}/busybox", bases.registry());
    let stores = tempfile::tempdir().unwrap();
    let (pairs, seed) = (from_env("KILN_PROPERTY_PAIRS", PAIRS), from_env("KILN_PROPERTY_SEED", 1));
    let (mut hits, mut runs, mut failures) = (0, 0, 0);
    let (mut project, mut failures_in_a_row) = (None, 0);
    for pair in 0..pairs {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(pair));
        let project = match &mut project {
            Some(project) if pair % EDITS != 0 && failures_in_a_row < MOST_FAILURES_IN_A_ROW => project,
            other => other.insert(Project::new(&mut random)),
        };
        let edit = project.edit(&mut random);
        let dockerfile = project.dockerfile(&base);
        let cached = Built::of(project, &dockerfile, &stores.path().join("cached"), false);
        let fresh = Built::of(project, &dockerfile, &stores.path().join("fresh"), true);
        failures_in_a_row = if fresh.is_err() { failures_in_a_row + 1 } else { 0 };
        match (&cached, &fresh) {
            (Ok(cached), Ok(fresh)) => {
                hits += cached.hits;
                runs += cached.runs;
                for (path, entry) in &fresh.files {
                    let found = cached.files.get(path);
                    assert_eq!(found, Some(entry), "pair {pair}, {edit}: {path:?} differs\n{dockerfile}");
                }
                let surplus = cached.files.keys().find(|path| !fresh.files.contains_key(*path));
                assert_eq!(surplus, None, "pair {pair}, {edit}: there is more\n{dockerfile}");
                assert_eq!(
                    cached.config, fresh.config,
                    "pair {pair}, {edit}: the config differs\n{dockerfile}"
                );
            }
            // Of several mistakes in stages that run side by side either may be found first.
            (Err(_), Err(_)) => failures += 1,
            _ => panic!(
                "pair {pair}, {edit}: only one of them fails: {:?} {:?}\n{dockerfile}",
                cached.err(),
                fresh.err()
            ),
        }
        if pair % REPORT == REPORT - 1 {
            eprintln!("{} pairs", pair + 1);
        }
    }
    eprintln!("{pairs} pairs: {hits} steps found, {runs} run, {failures} Dockerfiles that fail");
    for store in ["cached", "fresh"] {
        let problems = Store::open(&stores.path().join(store)).unwrap().check(CheckDepth::Trees).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    assert!(hits > pairs && runs > pairs / 2, "the vocabulary gives hits and misses: {hits} and {runs}");
    assert!(failures < pairs / 3, "most build");
}

#[test]
fn a_layer_that_is_there_twice_can_be_run_on() {
    let Some(kiln) = Kiln::new("a layer twice") else { return };
    let text = "FROM busybox\nCOPY a /d/\nRUN rm -r /d && mkdir /d && echo new > /d/b\nCOPY a /d/\nRUN ls /d > /list\n";
    let context = Context::with_dockerfile(text).file("a", "a");
    kiln.build(context.path(), &["-t", "twice", "."]);
    assert_eq!(kiln.run(&["twice", "sh", "-c", "cat /list && ls /d"]), "a\nb\na\nb\n");
}

/// What a build gave.
struct Built {
    files: BTreeMap<PathBuf, String>,
    config: String,
    hits: u64,
    runs: u64,
}

impl Built {
    fn of(project: &Project, dockerfile: &str, root: &Path, no_cache: bool) -> Result<Self, String> {
        let out = tempfile::tempdir().unwrap();
        let mut build = Build::from_context(project.context.path())
            .dockerfile(DockerfileSource::Text(dockerfile.as_bytes().to_vec()))
            .root(root)
            .no_cache(no_cache)
            .output(OutputSpec::Image { options: Default::default() })
            .output(OutputSpec::Local { dest: out.path().join("root"), options: Default::default() });
        for (name, value) in &project.args {
            build = build.arg(name, value);
        }
        let built = build.run().map_err(|error| error.to_string())?;
        let images = Images::open(Some(root)).unwrap();
        let mut config = images.config(&images.find(&built.config_digest.to_string()).unwrap()).unwrap();
        config.created = None;
        config.history.iter_mut().for_each(|entry| entry.created = None);
        // Modification times are in DiffIds, and no part of what is promised.
        config.rootfs.diff_ids.clear();
        let mut files = BTreeMap::new();
        list(&out.path().join("root"), Path::new(""), &mut files);
        Ok(Self {
            files,
            config: format!("{config:#?}"),
            hits: built.steps_cached as u64,
            runs: built.steps_run as u64,
        })
    }
}

/// All below `root` but times: kind, mode, owner, links, contents.
fn list(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let name = below.join(entry.unwrap().file_name());
        let path = root.join(&name);
        let found = path.symlink_metadata().unwrap();
        let contents = match () {
            () if found.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
            () if found.is_file() && found.len() < 4096 => {
                format!("{:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
            }
            () => format!("{}", if found.is_dir() { 0 } else { found.len() }),
        };
        files.insert(name.clone(), format!("{:o} {}:{} {contents}", found.mode(), found.uid(), found.gid()));
        if found.is_dir() {
            list(root, &name, files);
        }
    }
}

/// A context and a Dockerfile, both to be edited.
struct Project {
    context: tempfile::TempDir,
    stages: Vec<Vec<String>>,
    args: BTreeMap<String, String>,
}

const NAMES: [&str; 8] = ["a.txt", "b.txt", "run.sh", "d/one", "d/two", "d/e/deep", "lib", "x y"];
const TARGETS: [&str; 6] = ["/t/", "/t", "/u/v/", "/w", "./", "/d/"];
const DIRS: [&str; 4] = ["/t", "/u", "/w", "/d"];

impl Project {
    fn new(random: &mut Random) -> Self {
        let context = tempfile::tempdir().unwrap();
        for name in NAMES {
            if random.chance(80) {
                write(&context.path().join(name), random);
            }
        }
        let stages = (0..1 + random.below(3))
            .map(|stage| (0..2 + random.below(4)).map(|_| instruction(random, stage)).collect::<Vec<_>>());
        let mut project = Self { stages: stages.collect(), context, args: BTreeMap::new() };
        project.stages[0].insert(0, "COPY . /d/".into());
        project
    }

    fn dockerfile(&self, base: &str) -> String {
        let mut text = String::from("ARG TOP=1\n");
        for (stage, instructions) in self.stages.iter().enumerate() {
            text += &format!("FROM {base} AS s{stage}\nARG A=default\n");
            for line in instructions {
                text += &format!("{line}\n");
            }
        }
        text
    }

    /// Changes something, or nothing; says what.
    fn edit(&mut self, random: &mut Random) -> String {
        let root = self.context.path();
        let path = root.join(random.pick(&NAMES));
        let edit = random.below(16);
        // Links lead to what is not the test's to change.
        let is_link = path.is_symlink();
        match edit {
            0 | 1 => write(&path, random),
            2 | 3 if !is_link => {
                // The same size and modification time: as much as an edit can hide.
                let (Ok(old), Ok(found)) = (fs::read(&path), fs::metadata(&path)) else {
                    return "none".into();
                };
                let new: Vec<u8> = old
                    .iter()
                    .map(|byte| if *byte == b'\n' { *byte } else { b'a' + (*byte + 1) % 26 })
                    .collect();
                fs::write(&path, new).unwrap();
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_modified(found.modified().unwrap())
                    .unwrap();
            }
            4 if path.is_file() && !is_link => {
                let mode = [0o644, 0o755, 0o600, 0o4755][random.below(4)];
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            5 => {
                let other = root.join(random.pick(&NAMES));
                if path != other && path.is_file() && !other.is_dir() {
                    fs::create_dir_all(other.parent().unwrap()).unwrap();
                    fs::rename(&path, other).unwrap();
                }
            }
            6 => remove(&path),
            7 => {
                remove(&path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                symlink(
                    random.pick(&["a.txt", "../a.txt", "/outside-of-the-context", "d", "nowhere"]),
                    &path,
                )
                .unwrap();
            }
            8 => {
                if let Ok(found) = fs::symlink_metadata(&path)
                    && found.is_file()
                {
                    // Times alone are no change.
                    let old = SystemTime::now() - Duration::from_secs(3600);
                    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
                }
            }
            9 => {
                let text = random.pick(&["", "*.txt\n", "d/*\n!d/one\n", "lib\n", "**/deep\n"]);
                fs::write(root.join(".dockerignore"), text).unwrap();
            }
            10 => _ = self.args.insert("A".into(), format!("{}", random.below(3))),
            11 => self.args.clear(),
            12 => {
                let stage = random.below(self.stages.len());
                if self.stages[stage].len() > 1 {
                    let at = random.below(self.stages[stage].len());
                    self.stages[stage].remove(at);
                }
            }
            13 | 14 => {
                let stage = random.below(self.stages.len());
                let at = random.below(self.stages[stage].len() + 1);
                self.stages[stage].insert(at, instruction(random, stage));
            }
            _ => {}
        }
        format!("edit {edit} of {}", path.file_name().unwrap_or_default().display())
    }
}

fn write(path: &Path, random: &mut Random) {
    if path.is_dir() || path.parent().is_some_and(|parent| parent.is_file() || parent.is_symlink()) {
        return;
    }
    remove(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("text {}\n", random.below(1000))).unwrap();
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// One line for stage number `stage`. What it does depends on nothing but what a step is given: no times, no chance.
fn instruction(random: &mut Random, stage: usize) -> String {
    let target = random.pick(&TARGETS);
    let dir = random.pick(&DIRS);
    let word = random.below(4);
    let source = random.pick(&["a.txt", "*.txt", "d", "d/one", "d/", ".", "run.sh", "lib", "?.txt"]);
    let flags = random.pick(&["", "", "", "--chmod=750 ", "--chown=1000:1000 ", "--link ", "--chmod=u+x "]);
    match random.below(22) {
        0..=3 => format!("COPY {flags}{source} {target}"),
        4 => format!("ADD {flags}{source} {target}"),
        5..=6 if stage > 0 => {
            let from = random.below(stage);
            let source = random.pick(&["/t", "/d", "/u", "/w", "/d/*", "/d/a.txt"]);
            format!("COPY --from=s{from} {source} {target}")
        }
        5..=6 => format!("COPY --exclude=*.txt . {target}"),
        7 => format!("WORKDIR {dir}/work{word}"),
        8 => format!("ENV E{word}=$A"),
        9 => format!("ENV E{} value{word}", random.below(2)),
        10 => format!("USER {}", random.pick(&["root", "1000", "daemon", "1000:1000"])),
        11 => format!("LABEL l{word}=$E0"),
        12 => format!(
            "RUN --mount=type=bind,target=/m find /m -type f 2>/dev/null | sort > /tmp/bound{word} || true"
        ),
        13 => format!(
            "RUN --mount=type=cache,target=/c echo $E1 >> /c/log && echo done{word} > /tmp/c{word} || true"
        ),
        14 => format!(
            "RUN --mount=type=tmpfs,target=/m cp -r {dir} /m/ 2>/dev/null; ls /m > /tmp/tm{word} || true"
        ),
        15 => format!("RUN cat {dir}/* > /tmp/all{word} 2>/dev/null || true"),
        16 => format!("RUN rm -rf {dir}/one {dir}/e || true"),
        17 => format!("RUN mkdir -p {dir}/new{word} && ln -sf ../a.txt {dir}/new{word}/link || true"),
        18..=19 if stage > 0 => {
            let from = random.below(stage);
            let source = random.pick(&["/d", "/tmp", "/bin/sh", "/etc"]);
            format!(
                "RUN --mount=type=bind,from=s{from},source={source},target=/m \
                 find /m -type f -exec stat -c '%n %a %u:%g %s' {{}} + -exec cksum {{}} + | sort | head -40 > /tmp/part{word}"
            )
        }
        18..=19 => format!("RUN cp {dir}/a.txt /tmp/kept{word} 2>/dev/null || true"),
        20 => format!(
            "RUN find / -xdev -path /proc -prune -o -perm -100 -type f -print 2>/dev/null | sort | tail -5 > /tmp/x{word} || true"
        ),
        _ => format!("RUN echo $A $E0 $E1 $TOP $(id -u) $(pwd) > /tmp/env{word} || true"),
    }
}
