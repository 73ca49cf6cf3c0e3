//! What a Dockerfile is called: by its own name, or by those of all the files whose lines it has.

use std::fmt;

/// The name of a Dockerfile, as it was given; of several that are read as one (FEATURES LX37), all their names and where each
/// begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerfileName {
    first: String,
    /// The other files, each with its first line in the whole text.
    others: Vec<(String, u32)>,
}

impl DockerfileName {
    /// Adds a file whose lines follow those of `text`, which all end in a line feed.
    pub(crate) fn push(&mut self, other: &Self, text: &[u8]) {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        self.others.push((other.first.clone(), u32::try_from(lines + 1).unwrap_or(u32::MAX)));
    }

    /// The files in their order, each with its first line in the whole text.
    pub fn files(&self) -> impl Iterator<Item = (&str, u32)> {
        std::iter::once((self.first.as_str(), 1))
            .chain(self.others.iter().map(|(name, line)| (name.as_str(), *line)))
    }

    /// Whether there are several files.
    pub fn is_joined(&self) -> bool {
        !self.others.is_empty()
    }

    /// Returns which of [`DockerfileName::files`] has `line` of the whole text, its name, and the line's number in that file.
    pub fn place(&self, line: u32) -> (usize, &str, u32) {
        let files = self.files().enumerate().take_while(|(_, (_, first))| *first <= line);
        let (index, (name, first)) = files.last().unwrap_or((0, (&self.first, 1)));
        (index, name, (line + 1).saturating_sub(first))
    }
}

impl From<String> for DockerfileName {
    fn from(name: String) -> Self {
        Self { first: name, others: Vec::new() }
    }
}

impl From<&str> for DockerfileName {
    fn from(name: &str) -> Self {
        name.to_owned().into()
    }
}

impl fmt::Display for DockerfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first)?;
        self.others.iter().try_for_each(|(name, _)| write!(f, "+{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_several_files_is_one_of_its_own_file() {
        let mut name = DockerfileName::from("a");
        name.push(&"b".into(), b"1\n2\n");
        name.push(&"c".into(), b"1\n2\n3\n");
        let places = [1, 2, 3, 4, 9].map(|line| name.place(line));
        assert_eq!(places, [(0, "a", 1), (0, "a", 2), (1, "b", 1), (2, "c", 1), (2, "c", 6)]);
        assert_eq!(name.to_string(), "a+b+c");
    }
}
