//! Variables of a stage: what RUN sees, what the image keeps, which ARGs were declared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use kiln_parser::expand::Variables;

/// At most so many bytes of variables may flow into one word or heredoc. Without a limit, `ENV A=$A$A` repeated
/// thirty times is a gigabyte.
pub(super) const MAX_EXPANDED_BYTES: usize = 4 << 20;

/// `NAME=value` pairs in the order in which they were last set.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// `None` where a variable was set again later.
    entries: Vec<Option<(String, String)>>,
    index: HashMap<String, usize>,
}

impl Environment {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let entry = self.entries[*self.index.get(name)?].as_ref();
        entry.map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if let Some(old) = self.index.insert(name.to_owned(), self.entries.len()) {
            self.entries[old] = None;
        }
        self.entries.push(Some((name.to_owned(), value.to_owned())));
        // A variable that is set over and over must not make each walk longer.
        if self.entries.len() > 2 * self.index.len() + 16 {
            self.entries.retain(Option::is_some);
            for (place, (name, _)) in self.entries.iter().flatten().enumerate() {
                if let Some(index) = self.index.get_mut(name) {
                    *index = place;
                }
            }
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flatten().map(|(name, _)| name.as_str())
    }

    pub(super) fn to_pairs(&self) -> Vec<String> {
        self.entries.iter().flatten().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Variables for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        Environment::get(self, name)
    }
}

/// `Env` of the image config: a variable that is set again keeps its place.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigEnv {
    pairs: Vec<String>,
    index: HashMap<String, usize>,
}

impl ConfigEnv {
    pub(super) fn new(pairs: Vec<String>) -> Self {
        let mut index = HashMap::new();
        for (place, pair) in pairs.iter().enumerate() {
            index.entry(split_pair(pair).0.to_owned()).or_insert(place);
        }
        Self { pairs, index }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        match self.index.get(name) {
            Some(place) => self.pairs[*place] = pair,
            None => {
                self.index.insert(name.to_owned(), self.pairs.len());
                self.pairs.push(pair);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|pair| split_pair(pair))
    }

    pub(super) fn into_pairs(self) -> Vec<String> {
        self.pairs
    }
}

fn split_pair(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// The ARGs declared in a stage (and in the stages it comes from), in order of first declaration.
#[derive(Clone, Debug, Default)]
pub(super) struct DeclaredArgs {
    args: Vec<(String, Option<String>)>,
    index: HashMap<String, usize>,
}

impl DeclaredArgs {
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        match self.index.get(name) {
            Some(place) => self.args[*place].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.args.len());
                self.args.push((name.to_owned(), value));
            }
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.args[*self.index.get(name)?].1.as_deref()
    }

    /// `NAME=value` as the history of RUN has them: the value in effect, else the one declared.
    pub(super) fn in_effect(&self, environment: &Environment) -> Vec<String> {
        self.args
            .iter()
            .map(|(name, value)| {
                let value = environment.get(name).or(value.as_deref()).unwrap_or_default();
                format!("{name}={value}")
            })
            .collect()
    }
}

/// Variables that remember what they were asked for, and run dry at [`MAX_EXPANDED_BYTES`].
pub(super) struct Recorder<'a> {
    variables: &'a dyn Variables,
    found: RefCell<Vec<String>>,
    missing: RefCell<Vec<String>>,
    left_bytes: Cell<usize>,
    exhausted: Cell<bool>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(variables: &'a dyn Variables) -> Self {
        Self {
            variables,
            found: RefCell::default(),
            missing: RefCell::default(),
            left_bytes: Cell::new(MAX_EXPANDED_BYTES),
            exhausted: Cell::new(false),
        }
    }

    /// Whether values were held back.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Names asked for: those that were set, and those that were not; each once, in order.
    pub(super) fn into_names(self) -> (Vec<String>, Vec<String>) {
        (self.found.into_inner(), self.missing.into_inner())
    }
}

impl Variables for Recorder<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name);
        let mut names = if value.is_some() { self.found.borrow_mut() } else { self.missing.borrow_mut() };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        let value = value?;
        match self.left_bytes.get().checked_sub(value.len()) {
            Some(left) => {
                self.left_bytes.set(left);
                Some(value)
            }
            None => {
                self.exhausted.set(true);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_set_again_moves_to_the_end_of_the_environment() {
        let mut environment = Environment::default();
        environment.set("A", "1");
        environment.set("B", "2");
        environment.set("A", "3");
        assert_eq!(environment.to_pairs(), ["B=2", "A=3"]);
        assert_eq!(environment.get("A"), Some("3"));
    }

    #[test]
    fn a_variable_set_many_times_does_not_grow_the_environment() {
        let mut environment = Environment::default();
        environment.set("B", "2");
        for number in 0..1000 {
            environment.set("A", &number.to_string());
        }
        assert!(environment.entries.len() < 40);
        assert_eq!(environment.get("A"), Some("999"));
        assert_eq!(environment.get("B"), Some("2"));
    }

    #[test]
    fn a_variable_set_again_keeps_its_place_in_the_config() {
        let mut env = ConfigEnv::new(vec!["PATH=/bin".into(), "A=1".into()]);
        env.set("PATH", "/x");
        env.set("B", "2");
        assert_eq!(env.into_pairs(), ["PATH=/x", "A=1", "B=2"]);
    }
}
