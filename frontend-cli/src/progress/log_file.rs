//! `--logfile` and `--logsplit`: the lines of the plain display in files (FEATURES CL47).

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln::{Event, Platform, StepId};

use super::plain::Plain;
use super::{Display, step_of};

/// Where a build is told in place of standard error.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    /// A file for each platform, `PATH_linux_arm64`; `PATH` has what belongs to none or all.
    pub(crate) by_platform: bool,
}

impl LogFile {
    /// Makes the file empty and a display that writes to it.
    pub(super) fn display(&self, cut_names: bool) -> Result<Box<dyn Display>, String> {
        let shared = lines(&self.path, cut_names)?;
        match self.by_platform {
            false => Ok(Box::new(shared)),
            true => Ok(Box::new(Split {
                path: self.path.clone(),
                cut_names,
                shared,
                of_platform: HashMap::new(),
                steps: HashMap::new(),
            })),
        }
    }
}

type Lines = Plain<BufWriter<File>>;

fn lines(path: &Path, cut_names: bool) -> Result<Lines, String> {
    let file = File::create(path).map_err(|error| format!("--logfile {}: {error}", path.display()))?;
    Ok(Plain::new(BufWriter::new(file), cut_names))
}

struct Split {
    path: PathBuf,
    cut_names: bool,
    shared: Lines,
    of_platform: HashMap<String, Lines>,
    /// The platform of each step that has one.
    steps: HashMap<StepId, String>,
}

impl Split {
    /// The display of the file that `event` belongs to.
    fn of(&mut self, event: &Event) -> &mut Lines {
        if let Event::Step { id, name, .. } = event
            && let Some(suffix) = suffix(name)
        {
            if !self.of_platform.contains_key(&suffix) {
                let mut path = self.path.clone().into_os_string();
                path.push(&suffix);
                match lines(Path::new(&path), self.cut_names) {
                    Ok(lines) => _ = self.of_platform.insert(suffix.clone(), lines),
                    // Nothing may be lost: it stays in the file that there is.
                    Err(_) => return &mut self.shared,
                }
            }
            self.steps.insert(*id, suffix);
        }
        let suffix = step_of(event).and_then(|id| self.steps.get(&id));
        match suffix.and_then(|suffix| self.of_platform.get_mut(suffix)) {
            Some(lines) => lines,
            None => &mut self.shared,
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Lines> {
        std::iter::once(&mut self.shared).chain(self.of_platform.values_mut())
    }
}

impl Display for Split {
    fn event(&mut self, event: &Event) {
        self.of(event).event(event);
    }

    fn tick(&mut self, now: Duration) {
        self.all().for_each(|lines| lines.tick(now));
    }

    fn pause(&mut self) {
        self.all().for_each(Display::pause);
    }

    fn finish(&mut self, now: Duration) {
        self.all().for_each(|lines| lines.finish(now));
    }
}

/// `_linux_arm_v7` of `[linux/arm/v7 base 1/2] RUN make`, as buildah names such files.
fn suffix(step: &str) -> Option<String> {
    let platform = step.strip_prefix('[')?.split_once(' ')?.0;
    // A stage may be called anything but that.
    let is_platform = platform.contains('/') && platform.parse::<Platform>().is_ok();
    is_platform.then(|| format!("_{}", platform.replace('/', "_")))
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    #[test]
    fn each_platform_has_its_file_and_the_rest_is_in_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let file = LogFile { path: path.clone(), by_platform: true };
        let mut display = file.display(false).unwrap();
        let events = [
            step(1, "[internal] load build context"),
            step(2, "[linux/arm/v7 base 1/1] RUN a"),
            started(1, 0),
            done(1, 10),
            started(2, 20),
            log(2, b"hello\n", 30),
            done(2, 40),
        ];
        events.iter().for_each(|event| display.event(event));
        display.finish(at(50));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "#1 [internal] load build context\n#1 DONE 0.0s\n\n");
        let arm = read(&path.with_file_name("log_linux_arm_v7"));
        assert_eq!(arm, "#2 [linux/arm/v7 base 1/1] RUN a\n#2 0.010 hello\n#2 DONE 0.0s\n\n");
    }
}
