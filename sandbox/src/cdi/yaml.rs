//! YAML, as specifications are written in it (YAML 1.2); JSON is a part of it.
//!
//! The parser's events become a tree, and the tree what the fields of a specification are of: a plain `0` is text where
//! a name is wanted, and a number where a number is. What else CDI's own library reads (Go's `sigs.k8s.io/yaml`) is kept:
//! `0660` is octal, `<<` merges a mapping, `null` is as absent. Tags are passed over.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde::Deserialize;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};

/// Lists and mappings may be so deep in each other.
const MAX_DEPTH: usize = 64;
/// So many values may a document have; an alias counts as all that it stands for.
const MAX_VALUES: usize = 1 << 20;

/// Reads the first document of `text`.
pub(super) fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: BTreeMap::new() };
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd => return Err(error("it is empty", span.start.line())),
            event => return T::deserialize(&*reader.node(event, span, MAX_DEPTH)?),
        }
    }
}

/// What is wrong with a document, and in which line.
#[derive(Debug)]
pub(super) struct Error {
    message: String,
    /// From 1; 0 where it is not known yet.
    line: usize,
}

fn error(message: impl fmt::Display, line: usize) -> Error {
    Error { message: message.to_string(), line }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        error(message, 0)
    }
}

/// A value; aliases share it.
struct Node<'a> {
    line: usize,
    /// Values in it, itself among them.
    values: usize,
    /// How deep it goes; a scalar does not.
    depth: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Plain(std::borrow::Cow<'a, str>),
    Quoted(std::borrow::Cow<'a, str>),
    Sequence(Vec<Rc<Node<'a>>>),
    Mapping(Vec<(String, Rc<Node<'a>>)>),
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Rc<Node<'a>>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Error> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(wrong)) => Err(error(wrong.info(), wrong.marker().line())),
            None => Err(error("it ends too soon", 0)),
        }
    }

    /// The value that begins with `event`, which may go `room` deep.
    fn node(&mut self, event: Event<'a>, span: Span, room: usize) -> Result<Rc<Node<'a>>, Error> {
        let line = span.start.line();
        let too_deep = || error(format!("it is more than {MAX_DEPTH} deep"), line);
        let (anchor, kind) = match event {
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).filter(|node| node.depth <= room);
                return node.cloned().ok_or_else(too_deep);
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, _) => (anchor, Kind::Plain(text)),
            Event::Scalar(text, _, anchor, _) => (anchor, Kind::Quoted(text)),
            Event::SequenceStart(anchor, _) => {
                (anchor, Kind::Sequence(self.sequence(room.checked_sub(1).ok_or_else(too_deep)?)?))
            }
            Event::MappingStart(anchor, _) => {
                (anchor, Kind::Mapping(self.mapping(room.checked_sub(1).ok_or_else(too_deep)?)?))
            }
            _ => return Err(error("a value is missing", line)),
        };
        let node = Node::new(kind, line)?;
        // 0 is no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn sequence(&mut self, room: usize) -> Result<Vec<Rc<Node<'a>>>, Error> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, room)?),
            }
        }
    }

    fn mapping(&mut self, room: usize) -> Result<Vec<(String, Rc<Node<'a>>)>, Error> {
        let mut entries = BTreeMap::new();
        let mut merged = BTreeMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, room)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, room)?;
            let (Kind::Plain(text) | Kind::Quoted(text)) = &key.kind else {
                return Err(error("a key is a list or a mapping", key.line));
            };
            if text == "<<" && matches!(key.kind, Kind::Plain(_)) {
                let Kind::Mapping(others) = &value.kind else {
                    return Err(error("`<<` merges a mapping", value.line));
                };
                merged.extend(others.iter().cloned());
            } else if entries.insert(text.to_string(), value).is_some() {
                return Err(error(format!("`{text}` is there twice"), key.line));
            }
        }
        // What the mapping says itself goes before.
        merged.extend(entries);
        Ok(merged.into_iter().collect())
    }
}

impl<'a> Node<'a> {
    fn new(kind: Kind<'a>, line: usize) -> Result<Rc<Self>, Error> {
        let (mut values, mut depth) = (1, 0);
        {
            let mut add = |node: &Self| {
                values += node.values;
                depth = depth.max(node.depth + 1);
            };
            match &kind {
                Kind::Plain(_) | Kind::Quoted(_) => {}
                Kind::Sequence(items) => items.iter().for_each(|node| add(node)),
                Kind::Mapping(entries) => entries.iter().for_each(|(_, node)| add(node)),
            }
        }
        if values > MAX_VALUES {
            return Err(error(format!("it has more than {MAX_VALUES} values"), line));
        }
        Ok(Rc::new(Self { line, values, depth, kind }))
    }

    fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Plain(text) if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::Plain(_) if self.is_null() => visitor.visit_unit(),
            Kind::Plain(text) => match &**text {
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                text => match integer(text) {
                    Some(number) => visitor.visit_i64(number),
                    None => visitor.visit_str(text),
                },
            },
            Kind::Quoted(text) => visitor.visit_str(text),
            Kind::Sequence(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.iter().map(|item| &**item)))
            }
            Kind::Mapping(entries) => {
                let there = entries.iter().filter(|(_, value)| !value.is_null());
                visitor.visit_map(MapDeserializer::new(there.map(|(key, value)| (key.as_str(), &**value))))
            }
        }
    }

    fn visit_text<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match &self.kind {
            Kind::Plain(text) if !self.is_null() => visitor.visit_str(text),
            _ => self.visit(visitor),
        }
    }

    /// Says which line a mistake is in, where that is not known yet.
    fn located<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|wrong| if wrong.line == 0 { Error { line: self.line, ..wrong } } else { wrong })
    }
}

/// A whole number as Go reads one with the base in front; no field of a specification is a fraction.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, base) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    let is_unsigned = digits.starts_with(|c: char| c.is_digit(base));
    let number = i64::from_str_radix(digits, base).ok().filter(|_| is_unsigned)?;
    Some(if text.starts_with('-') { -number } else { number })
}

impl<'de> Deserializer<'de> for &Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.located(self.visit(visitor))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.located(self.visit_text(visitor))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for &Node<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn wrong(text: &str) -> String {
        read::<Value>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_word_is_what_it_looks_like_and_a_quoted_one_is_text() {
        let text = "a: [0, -7, 0660, 0o660, 0x1F, 08, 1.5, -x, true, ~, x y, '1', \"~\"]\nb:\nc: null\n";
        let list = json!([0, -7, 432, 432, 31, "08", "1.5", "-x", true, null, "x y", "1", "~"]);
        assert_eq!(value(text), json!({"a": list}));
    }

    #[test]
    fn where_text_is_wanted_a_plain_word_is_text() {
        let read: BTreeMap<String, String> =
            read("a: 0660\nb: true\nc: 0.6\nd: |\n  two\n  lines\n").unwrap();
        let read: Vec<&str> = read.values().map(String::as_str).collect();
        assert_eq!(read, ["0660", "true", "0.6", "two\nlines\n"]);
    }

    #[test]
    fn json_is_yaml() {
        let text = "{\n\t\"a\": [\n\t\t{\"b\":1,\"c\":\"\\u00e9\\n\"},\n\t\t[]\n\t],\n\t\"d\":{}\n}\n";
        assert_eq!(value(text), json!({"a": [{"b": 1, "c": "é\n"}, []], "d": {}}));
    }

    #[test]
    fn aliases_and_merges_stand_for_what_they_name() {
        let text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n";
        assert_eq!(value(text), json!({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(wrong("# nothing\n"), "line 2: it is empty");
        assert_eq!(wrong("a: 1\nb: 2\na: 3\n"), "line 3: `a` is there twice");
        assert_eq!(wrong("a: *b\n"), "line 1: while parsing node, found unknown anchor");
        assert_eq!(wrong("a: &a [*a]\n"), "line 1: it is more than 64 deep");
        assert_eq!(wrong("a: 1\n<<: 2\n"), "line 2: `<<` merges a mapping");
        let error = read::<BTreeMap<String, u32>>("a: 1\nb: -1\n").unwrap_err().to_string();
        assert_eq!(error, "line 2: invalid value: integer `-1`, expected u32");
    }

    #[test]
    fn a_small_document_does_not_become_a_large_one() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert_eq!(wrong(&bomb), "line 6: it has more than 1048576 values");
        let mut tower = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            tower += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        assert_eq!(wrong(&tower), "line 64: it is more than 64 deep");
        assert_eq!(wrong(&"- ".repeat(100)), "line 1: it is more than 64 deep");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([ a0&*<>|!%@?'\"\\\\{}\\[\\],:#~\n\t-]|\\PC){0,60}") {
            let _ = read::<Value>(&text);
        }

        #[test]
        fn what_is_written_as_json_is_read_as_it_is(
            numbers in prop::collection::vec(any::<i32>(), 0..5),
            texts in prop::collection::btree_map("[ -~]{1,20}", "[ -~]{0,20}", 0..5),
        ) {
            let value = json!({ "numbers": numbers, "texts": texts });
            prop_assert_eq!(read::<Value>(&serde_json::to_string_pretty(&value).unwrap()).unwrap(), value);
        }
    }
}
