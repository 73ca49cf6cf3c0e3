//! Blocks of `Key: value` lines, divided by empty lines: what dpkg, apk and Python's metadata have in common.

/// One block. Lines that begin with white space go on with the value before them and are passed over.
pub(super) struct Stanza<'a> {
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Stanza<'a> {
    /// The first value of a key, if it is not empty.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        let found = self.lines.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| *value).filter(|value| !value.is_empty())
    }
}

/// The blocks of `text`, whose keys end in `divider`.
pub(super) fn stanzas(text: &str, divider: char) -> impl Iterator<Item = Stanza<'_>> {
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        while lines.next_if(|line| is_blank(line)).is_some() {}
        lines.peek()?;
        let mut stanza = Stanza { lines: Vec::new() };
        while let Some(line) = lines.next_if(|line| !is_blank(line)) {
            if !line.starts_with([' ', '\t'])
                && let Some((key, value)) = line.split_once(divider)
            {
                stanza.lines.push((key, value.trim()));
            }
        }
        Some(stanza)
    })
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}
