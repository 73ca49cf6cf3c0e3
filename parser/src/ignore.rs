//! `.dockerignore` files (FEATURES CX12–CX18; moby/patternmatcher's rules): Go patterns with `**`, `!` exceptions,
//! the last match wins, a match of a directory covers everything below it.
//!
//! One rule of BuildKit's is easily missed: while it walks, a directory remembers which rules matched it, and a rule
//! that was not asked then (an ordinary rule where the directory was out already, an exception where it was in) is
//! asked about the paths below, but no longer about the directory. So `d`, `!d/f`, `d` keeps `d/f`.
//!
//! Cost: a path is judged from what its directory matched ([`IgnoreMemory`] keeps that), and rules without anything
//! special in them, which generated files have by the thousand, are found by name and not one after the other.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::pattern::{Class, class};

/// The compiled rules of one ignore file, or of `--exclude` flags.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
    /// The rules that are plain paths, by that path.
    plain: HashMap<String, Vec<u32>>,
    /// The others, in order.
    patterns: Vec<u32>,
    /// The `!` rules, in order.
    exceptions: Vec<u32>,
}

/// What the rules said about the directories of one walk, so that each is judged once and not for every path below it.
#[derive(Debug, Default)]
pub struct IgnoreMemory {
    rules: IgnoreRules,
    above: RwLock<HashMap<String, Arc<[u32]>>>,
}

/// A line of an ignore file that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: `{line}`")]
pub struct BadRule {
    /// Line number from 1.
    pub number: u32,
    /// The line.
    pub line: String,
    /// What is wrong.
    pub message: String,
}

/// What to do with a path of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the context.
    Keep,
    /// Not part of it, but an exception may match something below: a directory must be descended into.
    Skip,
    /// Not part of it, nor is anything below.
    Prune,
}

impl IgnoreRules {
    /// Parses a `.dockerignore` file.
    ///
    /// # Errors
    /// The first bad line.
    pub fn parse(text: &[u8]) -> Result<Self, BadRule> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            // A comment begins in the first column; ` #x` is a pattern.
            if line.starts_with(b"#") {
                continue;
            }
            let line = String::from_utf8_lossy(line);
            let (is_exception, pattern) = cut_exclamation(line.trim());
            let mut pattern = pattern.trim_start().to_owned();
            if !pattern.is_empty() {
                pattern = clean(&pattern);
                // A leading `/` means the context's root, where patterns begin anyway.
                if pattern.len() > 1 && pattern.starts_with('/') {
                    pattern.remove(0);
                }
                // BuildKit cleans `!/` once more, and nothing is left behind the `!`.
                if is_exception && pattern == "/" {
                    pattern.clear();
                }
            } else if !is_exception {
                continue;
            }
            rules.push(Rule::new(is_exception, pattern).map_err(|message| BadRule {
                number,
                line: line.trim().to_owned(),
                message: message.to_owned(),
            })?);
        }
        Ok(Self::new(rules))
    }

    /// Compiles bare patterns (`--exclude`). A leading `/` stays, and matches nothing.
    ///
    /// # Errors
    /// The first bad pattern.
    pub fn from_patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Self, BadRule> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(patterns) {
            let line = line.as_ref().trim();
            if line.is_empty() {
                continue;
            }
            // The `!` is cleaned as a part of the path, so `!a/../b` is the pattern `b`.
            let cleaned = clean(line);
            let (is_exception, pattern) = cut_exclamation(&cleaned);
            rules.push(Rule::new(is_exception, pattern.to_owned()).map_err(|message| BadRule {
                number,
                line: line.to_owned(),
                message: message.to_owned(),
            })?);
        }
        Ok(Self::new(rules))
    }

    fn new(rules: Vec<Rule>) -> Self {
        let mut indexed = Self::default();
        for (index, rule) in (0..).zip(&rules) {
            match &rule.matcher {
                Matcher::Exactly(path) => indexed.plain.entry(path.clone()).or_default().push(index),
                _ => indexed.patterns.push(index),
            }
            if rule.is_exception {
                indexed.exceptions.push(index);
            }
        }
        Self { rules, ..indexed }
    }

    /// Judges `path` (slash-separated, relative, clean). The root itself, an empty path, is always kept.
    ///
    /// Costs a look at the patterns for each directory above the path; a walk had better use [`IgnoreMemory`].
    pub fn verdict(&self, path: &str) -> Verdict {
        if self.rules.is_empty() || path.is_empty() {
            return Verdict::Keep;
        }
        let mut matched = Vec::new();
        let mut is_out = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            (is_out, matched) = self.judge(path.get(..end).unwrap_or(path), &matched);
        }
        self.weigh(path, is_out)
    }

    fn weigh(&self, path: &str, is_out: bool) -> Verdict {
        let may_match =
            |index: &u32| self.rule(*index).is_some_and(|rule| rule.matcher.may_match_below(path));
        match is_out {
            false => Verdict::Keep,
            true if self.exceptions.iter().any(may_match) => Verdict::Skip,
            true => Verdict::Prune,
        }
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    /// Whether `path` is out, and which rules match it; `above` are those that matched its parent. Both in order.
    fn judge(&self, path: &str, above: &[u32]) -> (bool, Vec<u32>) {
        let mut is_out = false;
        let mut matched = Vec::new();
        let plain = self.plain.get(path).map_or(&[][..], Vec::as_slice);
        // Of plain rules only those with this very name can match; the order of all is the file's.
        let mut heads = [above, plain, self.patterns.as_slice()];
        while let Some(index) = heads.iter().filter_map(|head| head.first().copied()).min() {
            let is_matched_above = heads.first().and_then(|above| above.first()) == Some(&index);
            for head in &mut heads {
                if let Some((first, rest)) = head.split_first()
                    && *first == index
                {
                    *head = rest;
                }
            }
            let Some(rule) = self.rule(index) else { break };
            if is_matched_above || rule.is_exception == is_out && rule.matcher.matches(path) {
                is_out = !rule.is_exception;
                matched.push(index);
            }
        }
        (is_out, matched)
    }

    /// Whether there are no rules at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule is written so that it covers everything at the root: `*`, `**` or `**/*`.
    pub fn covers_root(&self) -> bool {
        self.rules.iter().any(|rule| !rule.is_exception && rule.covers_root)
    }

    /// Whether any rule is an exception (`!`).
    pub fn has_exceptions(&self) -> bool {
        !self.exceptions.is_empty()
    }
}

impl IgnoreMemory {
    /// Remembers for `rules`. What has been judged stays true as long as this lives: rules do not change.
    pub fn new(rules: IgnoreRules) -> Self {
        Self { rules, above: RwLock::default() }
    }

    /// As [`IgnoreRules::verdict`], in any order of paths and from several threads.
    pub fn verdict(&self, path: &str) -> Verdict {
        if self.rules.is_empty() || path.is_empty() {
            return Verdict::Keep;
        }
        let above = path.rsplit_once('/').map(|(parent, _)| self.matched(parent));
        let (is_out, _) = self.rules.judge(path, above.as_deref().unwrap_or_default());
        self.rules.weigh(path, is_out)
    }

    /// Which rules match the directory `path`.
    fn matched(&self, path: &str) -> Arc<[u32]> {
        let known =
            |path: &str| self.above.read().unwrap_or_else(PoisonError::into_inner).get(path).map(Arc::clone);
        if let Some(matched) = known(path) {
            return matched;
        }
        // From the nearest directory that is known, downwards; without recursion, since the path may be of any depth.
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect();
        let mut matched: Arc<[u32]> = Arc::default();
        let mut first = 0;
        for (index, end) in ends.iter().enumerate().rev() {
            if let Some(found) = path.get(..*end).and_then(known) {
                (matched, first) = (found, index + 1);
                break;
            }
        }
        for directory in ends.iter().skip(first).filter_map(|end| path.get(..*end)) {
            matched = self.rules.judge(directory, &matched).1.into();
            let mut above = self.above.write().unwrap_or_else(PoisonError::into_inner);
            above.insert(directory.to_owned(), Arc::clone(&matched));
        }
        matched
    }
}

#[derive(Clone, Debug)]
struct Rule {
    is_exception: bool,
    covers_root: bool,
    matcher: Matcher,
}

impl Rule {
    fn new(is_exception: bool, pattern: String) -> Result<Self, &'static str> {
        if pattern.is_empty() {
            return Err("illegal exclusion pattern: \"!\"");
        }
        let covers_root = matches!(pattern.as_str(), "*" | "**" | "**/*");
        let matcher = Matcher::new(pattern).ok_or("syntax error in pattern")?;
        Ok(Self { is_exception, covers_root, matcher })
    }
}

/// A compiled pattern; most need no more than a comparison.
#[derive(Clone, Debug)]
enum Matcher {
    /// Nothing special in it.
    Exactly(String),
    /// `text**`.
    Prefix(String),
    /// `**text`; for `**/text` also the bare `text`.
    Suffix(String),
    /// Anything else.
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Exactly(char),
    /// `?`: one character but `/`.
    One,
    /// `*`: any run of characters but `/`.
    Many,
    /// `[…]`.
    Class(Class),
    /// `**/` or `**`: nothing, or anything up to and with a `/`. The first state may be skipped, the second is left only
    /// over a `/`.
    Directories,
    InDirectories,
    /// `**` at the end: anything.
    Rest,
}

impl Matcher {
    fn new(pattern: String) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        // Whether a token other than a plain character, or than `**` at either end, has been seen.
        let (mut is_special, mut is_suffix, mut is_prefix) = (false, false, false);
        while let Some(ch) = chars.next() {
            match ch {
                '*' if chars.as_str().starts_with('*') => {
                    let at_start = tokens.is_empty();
                    chars.next();
                    let rest = chars.as_str();
                    chars = rest.strip_prefix('/').unwrap_or(rest).chars();
                    if chars.as_str().is_empty() {
                        is_prefix = !is_special && !is_suffix && !at_start;
                        is_special |= !is_prefix && !at_start;
                        tokens.push(Token::Rest);
                    } else {
                        is_special |= !at_start;
                        tokens.extend([Token::Directories, Token::InDirectories]);
                    }
                    is_suffix |= at_start;
                    continue;
                }
                '*' => tokens.push(Token::Many),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(Token::Class(class(&mut chars)?)),
                '\\' => tokens.push(Token::Exactly(chars.next()?)),
                // Nothing special, but where one stands BuildKit compares by regular expression: `**a]` is no mere ending.
                ']' => tokens.push(Token::Exactly(']')),
                other => {
                    tokens.push(Token::Exactly(other));
                    continue;
                }
            }
            is_special = true;
        }
        if tokens.iter().any(|token| matches!(token, Token::Class(class) if class.has_reversed_range())) {
            return None;
        }
        Some(match (is_special, is_suffix, is_prefix) {
            (true, ..) => Self::Tokens(tokens),
            (_, true, _) => Self::Suffix(pattern.trim_start_matches("**").to_owned()),
            (.., true) => Self::Prefix(pattern.strip_suffix("**").unwrap_or(&pattern).to_owned()),
            _ => Self::Exactly(pattern),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exactly(text) => path == text,
            Self::Prefix(text) => path.starts_with(text.as_str()),
            Self::Suffix(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Self::Tokens(tokens) => {
                // Most paths differ in the first or last letter, and need no states.
                let fits = |token: Option<&Token>, ch: Option<char>| match token {
                    Some(Token::Exactly(wanted)) => ch == Some(*wanted),
                    _ => true,
                };
                fits(tokens.first(), path.chars().next())
                    && fits(tokens.last(), path.chars().next_back())
                    && States::after(tokens, path).is_done()
            }
        }
    }

    /// Whether a path below the directory `path` could match.
    fn may_match_below(&self, path: &str) -> bool {
        let is_below = |text: &str| text.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        match self {
            Self::Exactly(text) => is_below(text),
            Self::Prefix(text) => {
                is_below(text) || path.starts_with(text.as_str()) || *text == format!("{path}/")
            }
            Self::Suffix(_) => true,
            Self::Tokens(tokens) => {
                let mut states = States::after(tokens, path);
                states.step('/');
                states.is_alive()
            }
        }
    }
}

/// All the ways a pattern can match the characters so far, followed at once: no pattern takes more than its length for
/// each character.
#[derive(Debug)]
struct States<'a> {
    tokens: &'a [Token],
    live: Vec<bool>,
    next: Vec<bool>,
}

impl<'a> States<'a> {
    fn after(tokens: &'a [Token], text: &str) -> Self {
        let size = tokens.len() + 1;
        let mut states = Self { tokens, live: vec![false; size], next: vec![false; size] };
        set(&mut states.live, 0);
        states.skip();
        for ch in text.chars() {
            states.step(ch);
        }
        states
    }

    fn step(&mut self, ch: char) {
        self.next.fill(false);
        for (index, token) in self.tokens.iter().enumerate() {
            if self.live.get(index) != Some(&true) {
                continue;
            }
            let (stays, goes) = match token {
                Token::Exactly(wanted) => (false, *wanted == ch),
                Token::Class(class) => (false, class.holds(ch)),
                Token::One => (false, ch != '/'),
                Token::Many => (ch != '/', false),
                Token::Directories => (false, false),
                Token::InDirectories => (true, ch == '/'),
                Token::Rest => (true, false),
            };
            if stays {
                set(&mut self.next, index);
            }
            if goes {
                set(&mut self.next, index + 1);
            }
        }
        std::mem::swap(&mut self.live, &mut self.next);
        self.skip();
    }

    /// Passes the tokens that may be nothing.
    fn skip(&mut self) {
        for (index, token) in self.tokens.iter().enumerate() {
            if self.live.get(index) != Some(&true) {
                continue;
            }
            match token {
                Token::Many | Token::Rest => set(&mut self.live, index + 1),
                Token::Directories => {
                    set(&mut self.live, index + 1);
                    set(&mut self.live, index + 2);
                }
                _ => {}
            }
        }
    }

    fn is_done(&self) -> bool {
        self.live.last() == Some(&true)
    }

    fn is_alive(&self) -> bool {
        self.live.contains(&true)
    }
}

fn set(states: &mut [bool], index: usize) {
    if let Some(state) = states.get_mut(index) {
        *state = true;
    }
}

fn cut_exclamation(line: &str) -> (bool, &str) {
    match line.strip_prefix('!') {
        Some(pattern) => (true, pattern),
        None => (false, line),
    }
}

/// Shortens a path as Go's `filepath.Clean` does: no `.`, no `x/..`, no double or final slash.
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(text: &str) -> IgnoreRules {
        IgnoreRules::parse(text.as_bytes()).unwrap()
    }

    /// Of `paths`, those that are kept.
    fn kept<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let rules = rules(text);
        paths.iter().copied().filter(|path| rules.verdict(path) == Verdict::Keep).collect()
    }

    const TREE: [&str; 8] = ["a.txt", "b.md", "d", "d/c.txt", "d/e.md", "d/s", "d/s/f.txt", "log/x.log"];

    #[test]
    fn comments_blanks_and_byte_order_marks_are_no_patterns() {
        let text = "\u{feff}a.txt\r\n# comment\r\n\r\n  d/../b.md  \r\n#d\r\n";
        assert_eq!(kept(text, &TREE), ["d", "d/c.txt", "d/e.md", "d/s", "d/s/f.txt", "log/x.log"]);
    }

    #[test]
    fn a_leading_slash_or_dot_means_the_root() {
        assert_eq!(kept("/a.txt\n./d\n/b.md", &TREE), ["log/x.log"]);
    }

    #[test]
    fn a_star_stays_in_its_directory_and_two_stars_do_not() {
        assert_eq!(kept("*.md", &TREE), ["a.txt", "d", "d/c.txt", "d/e.md", "d/s", "d/s/f.txt", "log/x.log"]);
        assert_eq!(kept("**/*.md", &TREE), ["a.txt", "d", "d/c.txt", "d/s", "d/s/f.txt", "log/x.log"]);
        assert_eq!(kept("*/*.txt", &TREE), ["a.txt", "b.md", "d", "d/e.md", "d/s", "d/s/f.txt", "log/x.log"]);
        assert_eq!(kept("d/**", &TREE), ["a.txt", "b.md", "d", "log/x.log"]);
        assert_eq!(kept("**/s", &TREE), ["a.txt", "b.md", "d", "d/c.txt", "d/e.md", "log/x.log"]);
        assert_eq!(kept("**", &TREE), Vec::<&str>::new());
    }

    #[test]
    fn the_last_match_wins() {
        assert_eq!(kept("*\n!a.txt", &TREE), ["a.txt"]);
        assert_eq!(kept("*.md\n!b.md\nb.md", &["b.md"]), Vec::<&str>::new());
        assert_eq!(kept("d\n!d/s/f.txt", &["d", "d/s", "d/s/f.txt", "d/c.txt"]), ["d/s/f.txt"]);
    }

    #[test]
    fn a_rule_not_asked_about_a_directory_is_not_asked_later() {
        assert_eq!(kept("d\n!d/f\nd", &["d", "d/f", "d/g"]), ["d/f"]);
    }

    #[test]
    fn a_directory_is_pruned_unless_an_exception_may_lie_below() {
        let rules = rules("d\nnode_modules\n!d/s/f.txt");
        assert_eq!(rules.verdict("d"), Verdict::Skip);
        assert_eq!(rules.verdict("d/s"), Verdict::Skip);
        assert_eq!(rules.verdict("d/t"), Verdict::Prune);
        assert_eq!(rules.verdict("node_modules"), Verdict::Prune);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = IgnoreRules::parse(b"a\n!\n").unwrap_err();
        assert_eq!(
            (error.number, error.to_string()),
            (2, "illegal exclusion pattern: \"!\": `!`".to_owned())
        );
        let error = IgnoreRules::parse(b"[z-\n").unwrap_err();
        assert_eq!(error.to_string(), "syntax error in pattern: `[z-`");
    }

    #[test]
    fn bare_patterns_keep_their_leading_slash() {
        let rules = IgnoreRules::from_patterns(&["/a", "b/", ""]).unwrap();
        assert_eq!((rules.verdict("a"), rules.verdict("b")), (Verdict::Keep, Verdict::Prune));
    }

    #[test]
    fn an_exclude_is_cleaned_with_its_exclamation_mark() {
        let kept = |pattern: &str, path: &str| {
            IgnoreRules::from_patterns(&["*", pattern]).unwrap().verdict(path) == Verdict::Keep
        };
        assert!(kept("!b", "b") && kept("!b/", "b"));
        assert!(!kept("!a/../b", "b") && !kept("!./b", "b"));
        assert!(IgnoreRules::from_patterns(&["!"]).is_err() && IgnoreRules::from_patterns(&["!/"]).is_err());
        assert!(IgnoreRules::parse(b"*\n! / \n").is_err());
    }

    #[test]
    fn a_closing_bracket_makes_an_ending_a_whole_name() {
        assert_eq!(kept("**a]", &["a]", "d/a]", "xa]"]), ["xa]"]);
        assert_eq!(kept("**a", &["a", "d/a", "xa"]), Vec::<&str>::new());
    }

    #[test]
    fn ten_thousand_plain_rules_cost_a_path_no_more_than_one() {
        let mut text: String = (0..10_000).map(|number| format!("dir/file{number}\n")).collect();
        text.push_str("!dir/file7777\ndir/file7777\n");
        let memory = IgnoreMemory::new(rules(&text));
        let kept = (0..100_000).filter(|n| memory.verdict(&format!("dir/file{n}")) == Verdict::Keep).count();
        assert_eq!(kept, 90_000);
    }

    #[test]
    fn a_pattern_of_many_stars_is_no_trap() {
        let rules = rules(&format!("{}b", "**/*a".repeat(200)));
        assert_eq!(rules.verdict(&"a/".repeat(2000)), Verdict::Keep);
    }

    /// moby/patternmatcher's rules word for word, every way tried.
    mod slow {
        fn walk(pattern: &[char], path: &[char]) -> bool {
            match pattern {
                [] => path.is_empty(),
                ['*', '*', more @ ..] => {
                    let more = more.strip_prefix(&['/']).unwrap_or(more);
                    more.is_empty()
                        || walk(more, path)
                        || (0..path.len()).any(|at| path[at] == '/' && walk(more, &path[at + 1..]))
                }
                ['*', more @ ..] => {
                    walk(more, path) || path.first().is_some_and(|ch| *ch != '/') && walk(pattern, &path[1..])
                }
                ['?', more @ ..] => path.first().is_some_and(|ch| *ch != '/') && walk(more, &path[1..]),
                [ch, more @ ..] => path.first() == Some(ch) && walk(more, &path[1..]),
            }
        }

        fn matches(pattern: &str, path: &str) -> bool {
            // `**text` without anything else special is a plain comparison of the end, also within a name.
            if let Some(rest) = pattern.strip_prefix("**")
                && !rest.contains(['*', '?'])
            {
                return path.ends_with(rest) || rest.strip_prefix('/') == Some(path);
            }
            let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
            walk(&pattern, &path)
        }

        /// Whether `path` is out, from what is known of the directory above it.
        pub(super) fn is_out(patterns: &[String], path: &str) -> (bool, Vec<bool>) {
            let above = path.rsplit_once('/').map(|(parent, _)| is_out(patterns, parent).1);
            let mut out = false;
            let mut matched = Vec::new();
            for (index, line) in patterns.iter().enumerate() {
                let (exception, pattern) =
                    line.strip_prefix('!').map_or((false, line.as_str()), |rest| (true, rest));
                let hit = above.as_ref().is_some_and(|above| above[index])
                    || exception == out && matches(&super::clean(pattern), path);
                if hit {
                    out = !exception;
                }
                matched.push(hit);
            }
            (out, matched)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn rules_agree_with_the_slow_and_obvious_matcher(
            patterns in prop::collection::vec("!?(\\*\\*/|\\*\\*)?[ab*?]{1,3}(/(\\*\\*|[ab*?]{1,2})){0,2}(/\\*\\*)?", 1..5),
            paths in prop::collection::vec("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..6),
        ) {
            let rules = IgnoreRules::from_patterns(&patterns).unwrap();
            let memory = IgnoreMemory::new(rules.clone());
            for path in &paths {
                let (out, _) = slow::is_out(&patterns, path);
                prop_assert_eq!(rules.verdict(path) != Verdict::Keep, out, "{:?} {}", patterns, path);
                prop_assert_eq!(memory.verdict(path), rules.verdict(path), "{:?} {}", patterns, path);
            }
        }

        #[test]
        fn nothing_below_a_pruned_directory_is_kept(
            patterns in prop::collection::vec("!?[ab*?]{1,3}(/[ab*?]{1,2}){0,2}", 1..5),
            parent in "[ab]{1,2}(/[ab]{1,2}){0,1}",
            child in "[ab]{1,2}(/[ab]{1,2}){0,1}",
        ) {
            let rules = IgnoreRules::from_patterns(&patterns).unwrap();
            if rules.verdict(&parent) == Verdict::Prune {
                prop_assert_eq!(rules.verdict(&format!("{parent}/{child}")), Verdict::Prune);
            }
        }

        #[test]
        fn no_ignore_file_is_a_trap(text in prop::collection::vec(any::<u8>(), 0..200), path in ".{0,40}") {
            if let Ok(rules) = IgnoreRules::parse(&text) {
                rules.verdict(&path);
            }
        }
    }
}
