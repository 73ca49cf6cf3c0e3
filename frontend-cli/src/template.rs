//! `--format`: the part of Go's templates (text/template) that docker's users write, on JSON values.
//!
//! Fields, pipes, `range`, `if`, `with`, variables, and docker's functions: json, join, index, len, lower, upper, title,
//! split, print, printf, println, truncate, pad, slice, eq, ne, lt, le, gt, ge, and, or, not. `json` alone is
//! `{{json .}}`; outside of actions `\t` and `\n` are what they are called.

use std::cmp::Ordering;
use std::iter::Peekable;

use serde_json::Value;

/// Shows `object` as `format` says, with a line's end.
pub(crate) fn render(format: &str, object: &Value) -> Result<String, String> {
    Ok(Template::parse(format)?.render(object)? + "\n")
}

/// Shows `objects` under the names of their fields where `format` begins with `table `, else one a line.
pub(crate) fn render_all(format: &str, objects: &[Value], head: &Value) -> Result<String, String> {
    match format.strip_prefix("table ") {
        None => {
            let template = Template::parse(format)?;
            objects.iter().map(|object| Ok(template.render(object)? + "\n")).collect()
        }
        Some(format) => {
            let template = Template::parse(format)?;
            let cells = |object: &Value| {
                Ok::<_, String>(template.render(object)?.split('\t').map(str::to_owned).collect::<Vec<_>>())
            };
            let head = cells(head)?;
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            let rows = objects.iter().map(cells).collect::<Result<Vec<_>, _>>()?;
            Ok(crate::table::table(&head, &rows))
        }
    }
}

/// A template that was understood.
pub(crate) struct Template(Vec<Node>);

enum Node {
    Text(String),
    Show(Pipeline),
    Set(String, Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range { names: Vec<String>, of: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands, each of which gets what the one before it gave as its last argument.
type Pipeline = Vec<Vec<Operand>>;

enum Operand {
    /// `.A.B`, or `.`.
    Field(Vec<String>),
    /// `$x.A`; the name is empty for `$`.
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Group(Pipeline, Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    Open,
    Close,
    Word(String),
    Literal(Value),
    Pipe,
    Comma,
    Assign,
    ParenOpen,
    ParenClose,
}

impl Template {
    pub(crate) fn parse(format: &str) -> Result<Self, String> {
        let format = if format == "json" { "{{json .}}" } else { format };
        let tokens = tokens(format).map_err(|problem| format!("template `{format}`: {problem}"))?;
        let mut parser = Parser { tokens: tokens.into_iter().peekable() };
        let (nodes, end) = parser.nodes().map_err(|problem| format!("template `{format}`: {problem}"))?;
        match end {
            Stop::Input => Ok(Self(nodes)),
            Stop::Else(_) | Stop::End => Err(format!("template `{format}`: an `end` or `else` of nothing")),
        }
    }

    pub(crate) fn render(&self, object: &Value) -> Result<String, String> {
        let mut scope = Scope { out: String::new(), variables: vec![(String::new(), object.clone())] };
        scope.run(&self.0, object).map_err(|problem| format!("template: {problem}"))?;
        Ok(scope.out)
    }
}

fn tokens(format: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = format;
    let mut trims = false;
    loop {
        let (text, after) = rest.split_once("{{").map_or((rest, None), |(text, after)| (text, Some(after)));
        let mut text = text.replace("\\t", "\t").replace("\\n", "\n");
        if trims {
            text = text.trim_start().to_owned();
        }
        let Some(mut after) = after else {
            tokens.push(Token::Text(text));
            return Ok(tokens);
        };
        if let Some(trimmed) = after.strip_prefix("- ") {
            text = text.trim_end().to_owned();
            after = trimmed;
        }
        tokens.extend([Token::Text(text), Token::Open]);
        (rest, trims) = action(after, &mut tokens)?;
        tokens.push(Token::Close);
    }
}

/// The words up to `}}`; returns what follows, and whether its white space goes.
fn action<'a>(text: &'a str, tokens: &mut Vec<Token>) -> Result<(&'a str, bool), String> {
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((after, false));
        }
        if let Some(after) = rest.strip_prefix("-}}") {
            return Ok((after, true));
        }
        let Some(first) = rest.chars().next() else { return Err("`{{` is never closed".to_owned()) };
        let simple = match first {
            '|' => Some((Token::Pipe, 1)),
            ',' => Some((Token::Comma, 1)),
            '(' => Some((Token::ParenOpen, 1)),
            ')' => Some((Token::ParenClose, 1)),
            ':' if rest.starts_with(":=") => Some((Token::Assign, 2)),
            _ => None,
        };
        if let Some((token, length)) = simple {
            tokens.push(token);
            rest = &rest[length..];
            continue;
        }
        if first == '`' {
            let end = rest[1..].find('`').ok_or("a quote is never closed")? + 1;
            tokens.push(Token::Literal(rest[1..end].into()));
            rest = &rest[end + 1..];
            continue;
        }
        if first == '"' {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let text = values.next().and_then(Result::ok).ok_or("a quote is never closed")?;
            tokens.push(Token::Literal(text.into()));
            rest = &rest[values.byte_offset()..];
            continue;
        }
        let end = rest
            .find(|char: char| char.is_whitespace() || "|,()}\"`:".contains(char))
            .filter(|end| *end > 0)
            .ok_or_else(|| format!("unexpected `{first}`"))?;
        let word = &rest[..end];
        tokens.push(match word {
            "true" | "false" => Token::Literal((word == "true").into()),
            "nil" => Token::Literal(Value::Null),
            _ => match word.parse::<i64>() {
                Ok(number) => Token::Literal(number.into()),
                Err(_) => Token::Word(word.to_owned()),
            },
        });
        rest = &rest[end..];
    }
}

struct Parser {
    tokens: Peekable<std::vec::IntoIter<Token>>,
}

/// What a run of nodes stops at.
enum Stop {
    Input,
    End,
    /// With what follows the word: nothing, or `if …`.
    Else(Option<Pipeline>),
}

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), String> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.next() {
                None => return Ok((nodes, Stop::Input)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(_) => {
                    let word = match self.tokens.peek() {
                        Some(Token::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match word.as_str() {
                        "end" => {
                            self.tokens.next();
                            self.close()?;
                            return Ok((nodes, Stop::End));
                        }
                        "else" => {
                            self.tokens.next();
                            if self.tokens.next_if_eq(&Token::Word("if".into())).is_none() {
                                self.close()?;
                                return Ok((nodes, Stop::Else(None)));
                            }
                            let condition = self.pipeline()?;
                            self.close()?;
                            return Ok((nodes, Stop::Else(Some(condition))));
                        }
                        _ => nodes.push(self.action(&word)?),
                    }
                }
            }
        }
    }

    fn action(&mut self, word: &str) -> Result<Node, String> {
        if matches!(word, "if" | "with" | "range") {
            self.tokens.next();
        }
        let mut names = Vec::new();
        let ahead: Vec<Token> = self.tokens.clone().take_while(|token| *token != Token::Close).collect();
        if let Some(at) = ahead.iter().position(|token| *token == Token::Assign) {
            for token in &ahead[..=at] {
                self.tokens.next();
                match token {
                    Token::Word(word) if word.starts_with('$') => names.push(word[1..].to_owned()),
                    Token::Comma | Token::Assign => {}
                    _ => return Err("a variable's name begins with `$`".to_owned()),
                }
            }
        }
        let pipeline = self.pipeline()?;
        self.close()?;
        Ok(match (word, names.as_slice()) {
            ("range", _) => {
                let (body, otherwise) = self.bodies()?;
                Node::Range { names, of: pipeline, body, otherwise }
            }
            ("if", []) => {
                let (body, otherwise) = self.bodies()?;
                Node::If(pipeline, body, otherwise)
            }
            ("with", []) => {
                let (body, otherwise) = self.bodies()?;
                Node::With(pipeline, body, otherwise)
            }
            (_, []) => Node::Show(pipeline),
            (_, [name]) => Node::Set(name.clone(), pipeline),
            _ => return Err("too many variables".to_owned()),
        })
    }

    /// What stands before `else`, and between it and `end`.
    fn bodies(&mut self) -> Result<(Vec<Node>, Vec<Node>), String> {
        let (body, end) = self.nodes()?;
        match end {
            Stop::Input => Err("an `end` is missing".to_owned()),
            Stop::End => Ok((body, Vec::new())),
            Stop::Else(Some(condition)) => {
                let (inner, otherwise) = self.bodies()?;
                Ok((body, vec![Node::If(condition, inner, otherwise)]))
            }
            Stop::Else(None) => match self.nodes()? {
                (otherwise, Stop::End) => Ok((body, otherwise)),
                _ => Err("an `end` is missing".to_owned()),
            },
        }
    }

    fn close(&mut self) -> Result<(), String> {
        match self.tokens.next() {
            Some(Token::Close) => Ok(()),
            other => Err(format!("unexpected {other:?}")),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let mut commands = vec![Vec::new()];
        loop {
            let operand = match self.tokens.peek() {
                Some(Token::Pipe) => {
                    self.tokens.next();
                    commands.push(Vec::new());
                    continue;
                }
                Some(Token::ParenOpen) => {
                    self.tokens.next();
                    let inner = self.pipeline()?;
                    if self.tokens.next() != Some(Token::ParenClose) {
                        return Err("a parenthesis is never closed".to_owned());
                    }
                    // `(index .A 0).B`.
                    let path = self.tokens.next_if(
                        |token| matches!(token, Token::Word(word) if word.starts_with('.') && word.len() > 1),
                    );
                    let path = match path {
                        Some(Token::Word(word)) => path_of(&word),
                        _ => Vec::new(),
                    };
                    Operand::Group(inner, path)
                }
                Some(Token::Word(_) | Token::Literal(_)) => match self.tokens.next() {
                    Some(Token::Literal(value)) => Operand::Literal(value),
                    Some(Token::Word(word)) => operand(&word),
                    _ => return Err("the template ends early".to_owned()),
                },
                _ => break,
            };
            if let Some(command) = commands.last_mut() {
                command.push(operand);
            }
        }
        if commands.iter().any(Vec::is_empty) { Err("an empty command".to_owned()) } else { Ok(commands) }
    }
}

fn operand(word: &str) -> Operand {
    if let Some(rest) = word.strip_prefix('$') {
        let (name, path) = rest.split_once('.').unwrap_or((rest, ""));
        return Operand::Variable(name.to_owned(), path_of(path));
    }
    if word.starts_with('.') { Operand::Field(path_of(word)) } else { Operand::Function(word.to_owned()) }
}

fn path_of(text: &str) -> Vec<String> {
    text.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

struct Scope {
    out: String,
    variables: Vec<(String, Value)>,
}

impl Scope {
    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let outer = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Show(pipeline) => {
                    let value = self.value(pipeline, dot)?;
                    self.out.push_str(&shown(&value));
                }
                Node::Set(name, pipeline) => {
                    let value = self.value(pipeline, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(condition, body, otherwise) => {
                    let holds = is_true(&self.value(condition, dot)?);
                    self.run(if holds { body } else { otherwise }, dot)?;
                }
                Node::With(of, body, otherwise) => {
                    let value = self.value(of, dot)?;
                    if is_true(&value) { self.run(body, &value)? } else { self.run(otherwise, dot)? }
                }
                Node::Range { names, of, body, otherwise } => {
                    let items: Vec<(Value, Value)> = match self.value(of, dot)? {
                        Value::Array(items) => {
                            items.into_iter().enumerate().map(|(index, item)| (index.into(), item)).collect()
                        }
                        Value::Object(fields) => {
                            let mut items: Vec<_> =
                                fields.into_iter().map(|(name, item)| (name.into(), item)).collect();
                            items
                                .sort_by(|one: &(Value, Value), other| one.0.as_str().cmp(&other.0.as_str()));
                            items
                        }
                        Value::Null => Vec::new(),
                        other => return Err(format!("range cannot go over {other}")),
                    };
                    if items.is_empty() {
                        self.run(otherwise, dot)?;
                    }
                    for (key, item) in items {
                        let before = self.variables.len();
                        match names.as_slice() {
                            [value] => self.variables.push((value.clone(), item.clone())),
                            [index, value] => {
                                self.variables.push((index.clone(), key));
                                self.variables.push((value.clone(), item.clone()));
                            }
                            _ => {}
                        }
                        self.run(body, &item)?;
                        self.variables.truncate(before);
                    }
                }
            }
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn value(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last: Option<Value> = None;
        for command in pipeline {
            let (first, rest) = command.split_first().ok_or("an empty command")?;
            last = Some(match first {
                Operand::Function(name) => {
                    let mut arguments: Vec<Value> =
                        rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<_, _>>()?;
                    arguments.extend(last.take());
                    call(name, &arguments)?
                }
                _ if !rest.is_empty() || last.is_some() => {
                    return Err("a value is no function and takes no arguments".to_owned());
                }
                operand => self.operand(operand, dot)?,
            });
        }
        last.ok_or_else(|| "an empty command".to_owned())
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => field(dot, path),
            Operand::Group(pipeline, path) => field(&self.value(pipeline, dot)?, path),
            Operand::Function(name) => call(name, &[]),
            Operand::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("there is no variable ${name}"))?;
                field(value, path)
            }
        }
    }
}

/// A field of a field. What an object lacks is null below the first level, where docker leaves out what is empty.
fn field(value: &Value, path: &[String]) -> Result<Value, String> {
    let mut at = value;
    for (depth, name) in path.iter().enumerate() {
        at = match at {
            Value::Object(fields) => match fields.get(name) {
                Some(found) => found,
                None if depth > 0 => return Ok(Value::Null),
                None => {
                    let known: Vec<_> = fields.keys().map(|name| format!(".{name}")).collect();
                    return Err(format!("there is no `.{name}`; there are {}", known.join(", ")));
                }
            },
            Value::Null => return Ok(Value::Null),
            _ => return Err(format!("there is no `.{name}` in {at}")),
        };
    }
    Ok(at.clone())
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |index: usize| match arguments.get(index) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(shown(other)),
        None => Err(format!("`{name}` wants more arguments")),
    };
    let number = |index: usize| {
        let number =
            arguments.get(index).and_then(Value::as_i64).and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| format!("`{name}` wants a number"))
    };
    let compare = |wanted: fn(Ordering) -> bool| {
        let (one, other) = (arguments.first(), arguments.get(1));
        let order = match (one.and_then(Value::as_f64), other.and_then(Value::as_f64)) {
            (Some(one), Some(other)) => one.partial_cmp(&other),
            _ => Some(text(0)?.cmp(&text(1)?)),
        };
        Ok::<_, String>(order.is_some_and(wanted).into())
    };
    match name {
        "json" => Ok(arguments.first().unwrap_or(&Value::Null).to_string().into()),
        "join" => {
            let items = arguments.first().and_then(Value::as_array).cloned().unwrap_or_default();
            Ok(items.iter().map(shown).collect::<Vec<_>>().join(&text(1)?).into())
        }
        "split" => Ok(text(0)?.split(&text(1)?).map(Value::from).collect::<Vec<_>>().into()),
        "index" => {
            let (first, keys) = arguments.split_first().ok_or("`index` wants a value")?;
            keys.iter().try_fold(first.clone(), |at, key| match (&at, key) {
                (Value::Array(items), _) => key
                    .as_u64()
                    .and_then(|index| items.get(usize::try_from(index).ok()?))
                    .cloned()
                    .ok_or_else(|| format!("index out of range: {key}")),
                (Value::Object(fields), Value::String(key)) => {
                    Ok(fields.get(key).cloned().unwrap_or(Value::Null))
                }
                (Value::Null, _) => Ok(Value::Null),
                _ => Err(format!("`index` cannot look into {at}")),
            })
        }
        "len" => Ok(match arguments.first() {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(fields)) => fields.len(),
            Some(Value::String(text)) => text.len(),
            _ => 0,
        }
        .into()),
        "lower" => Ok(text(0)?.to_lowercase().into()),
        "upper" => Ok(text(0)?.to_uppercase().into()),
        "title" => {
            let text = text(0)?;
            let mut chars = text.chars();
            Ok(chars
                .next()
                .map(|first| first.to_uppercase().chain(chars).collect::<String>())
                .unwrap_or_default()
                .into())
        }
        "truncate" => Ok(text(0)?.chars().take(number(1)?).collect::<String>().into()),
        "slice" => {
            let (from, to) = (number(1)?, if arguments.len() > 2 { number(2)? } else { usize::MAX });
            let taken = to.saturating_sub(from);
            Ok(match arguments.first() {
                Some(Value::Array(items)) => {
                    items.iter().skip(from).take(taken).cloned().collect::<Vec<_>>().into()
                }
                _ => text(0)?.chars().skip(from).take(taken).collect::<String>().into(),
            })
        }
        "pad" => {
            let (before, after) = (number(1)?.min(MOST_PADDING), number(2)?.min(MOST_PADDING));
            Ok(format!("{}{}{}", " ".repeat(before), text(0)?, " ".repeat(after)).into())
        }
        "print" => Ok(arguments.iter().map(shown).collect::<String>().into()),
        "println" => Ok((arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into()),
        "printf" => printf(&text(0)?, &arguments[1..]).map(Value::from),
        "not" => Ok((!arguments.first().is_some_and(is_true)).into()),
        "and" => Ok(arguments
            .iter()
            .find(|value| !is_true(value))
            .or(arguments.last())
            .cloned()
            .unwrap_or_default()),
        "or" => Ok(arguments
            .iter()
            .find(|value| is_true(value))
            .or(arguments.last())
            .cloned()
            .unwrap_or_default()),
        "eq" => Ok(arguments.iter().skip(1).any(|other| Some(other) == arguments.first()).into()),
        "ne" => Ok((arguments.first() != arguments.get(1)).into()),
        "lt" => compare(Ordering::is_lt),
        "le" => compare(Ordering::is_le),
        "gt" => compare(Ordering::is_gt),
        "ge" => compare(Ordering::is_ge),
        _ => Err(format!("there is no function `{name}`")),
    }
}

fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut arguments = arguments.iter();
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|char| char.is_ascii_digit() || "-+. ".contains(*char)) {
            flags.push(flag);
        }
        let verb = chars.next().ok_or("printf: `%` at the end")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = arguments.next().ok_or("printf: too few arguments")?;
        let text = match verb {
            's' | 'v' | 'd' => shown(value),
            'q' => Value::from(shown(value)).to_string(),
            'f' => format!("{:.6}", value.as_f64().unwrap_or_default()),
            other => return Err(format!("printf: there is no `%{other}`")),
        };
        let wide = flags.trim_start_matches(['-', '+', ' ']).parse::<usize>().unwrap_or(0).min(MOST_PADDING);
        match flags.starts_with('-') {
            true => out.push_str(&format!("{text:<wide$}")),
            false => out.push_str(&format!("{text:>wide$}")),
        }
    }
    Ok(out)
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let mut fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", shown(value))).collect();
            fields.sort();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// Spaces that a template may ask for at once.
const MOST_PADDING: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_json_are_shown() {
        let object = json!({"ID": "abc", "Size": 3, "Of": {"Name": "x\ty"}});
        assert_eq!(render("{{.ID}}\\t{{ .Size }}", &object).unwrap(), "abc\t3\n");
        assert_eq!(render("{{json .Of}}", &object).unwrap(), "{\"Name\":\"x\\ty\"}\n");
        assert_eq!(render("{{.Of.Name}}", &object).unwrap(), "x\ty\n");
        assert_eq!(render("json", &object).unwrap(), format!("{object}\n"));
    }

    #[test]
    fn an_unknown_field_names_those_that_there_are() {
        let object = json!({"ID": "abc", "Size": 3});
        assert_eq!(
            render("{{.Nope}}", &object).unwrap_err(),
            "template: there is no `.Nope`; there are .ID, .Size"
        );
        for broken in ["{{.ID", "{{end}}", "{{if .ID}}x", "{{nope .ID}}", "{{.ID | }}", "{{\"x}}", "{{(.ID}}"]
        {
            assert!(render(broken, &object).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_docker_users_write_works() {
        let object = json!({
            "Id": "sha256:1", "RepoTags": ["a:1", "b:2"], "Size": 1500,
            "Config": {"Env": ["A=b", "C=d"], "Labels": {"x.y": "z", "k": "v"}, "User": ""},
        });
        let cases = [
            ("{{index .RepoTags 0}}", "a:1"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{join .RepoTags \", \"}}", "a:1, b:2"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=b\nC=d\n"),
            ("{{range $i, $e := .RepoTags}}{{$i}}={{$e}};{{end}}", "0=a:1;1=b:2;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", "k=v x.y=z "),
            ("{{if .Config.User}}{{.Config.User}}{{else}}root{{end}}", "root"),
            ("{{if eq .Size 1}}one{{else if gt .Size 1000}}large{{else}}small{{end}}", "large"),
            ("{{with .Config}}{{.Env}}{{end}}", "[A=b C=d]"),
            ("{{.Config.Labels}}", "map[k:v x.y:z]"),
            ("{{.Config.Entrypoint}}", "<no value>"),
            ("{{len .RepoTags}} {{.Id | upper | printf \"%-10s|\"}}", "2 SHA256:1  |"),
            ("{{ $t := index .RepoTags 1 -}}  {{ $t }}", "b:2"),
            ("{{(index (split (index .RepoTags 0) \":\") 1)}}", "1"),
            ("{{json .Config.Env}}", "[\"A=b\",\"C=d\"]"),
            ("{{range .Config.Volumes}}x{{else}}none{{end}}", "none"),
        ];
        for (format, expected) in cases {
            assert_eq!(render(format, &object).as_deref(), Ok(&*format!("{expected}\n")), "{format}");
        }
    }

    #[test]
    fn a_table_has_a_head() {
        let rows = [json!({"ID": "1", "Size": "4MB"}), json!({"ID": "2", "Size": "40kB"})];
        let head = json!({"ID": "IMAGE ID", "Size": "SIZE"});
        insta::assert_snapshot!(render_all("table {{.ID}}\\t{{.Size}}", &rows, &head).unwrap(), @r"
        IMAGE ID   SIZE
        1          4MB
        2          40kB
        ");
        assert_eq!(render_all("{{.ID}}", &rows, &head).unwrap(), "1\n2\n");
    }
}
