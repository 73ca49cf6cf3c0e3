//! Comments that describe stages and arguments (shown by `--call=outline` and `--call=targets`).

use super::Findings;
use crate::{ArgPair, Dockerfile, InstructionKind, Span};

/// Returns what the comment above a stage or ARG says about `name`: the line `# name what it is for`.
pub fn description<'a>(comment: &'a [String], name: &str) -> Option<&'a str> {
    if name.is_empty() {
        return None;
    }
    comment.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// InvalidDefinitionDescription: the comment's last line begins with another word than the name.
pub(super) fn invalid(file: &Dockerfile, found: &mut Findings) {
    for (pairs, comment) in file.global_args.iter().zip(&file.global_comments) {
        arg(&pairs.value, comment, pairs.span, found);
    }
    for stage in &file.stages {
        if let Some(name) = &stage.name {
            judge("FROM", &[&name.value], &stage.comment, stage.span, found);
        }
        for instruction in &stage.instructions {
            if let InstructionKind::Arg(pairs) = &instruction.kind {
                arg(pairs, &instruction.comment, instruction.span, found);
            }
        }
    }
}

fn arg(pairs: &[ArgPair], comment: &[String], span: Span, found: &mut Findings) {
    let names: Vec<_> = pairs.iter().map(|pair| pair.name.value.as_str()).collect();
    judge("ARG", &names, comment, span, found);
}

fn judge(keyword: &str, names: &[&str], comment: &[String], span: Span, found: &mut Findings) {
    let (Some(last), Some(first_name)) = (comment.last(), names.first()) else { return };
    if names.contains(&last.split(' ').next().unwrap_or_default()) {
        return;
    }
    let name = if names.len() > 1 { "<arg_key>" } else { first_name };
    found.add(format!("Comment for {keyword} should follow the format: `# {name} <description>`"), span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_follows_the_whole_name() {
        let comment = ["licence".to_owned(), "base2 x".to_owned(), "base the common part".to_owned()];
        assert_eq!(description(&comment, "base"), Some("the common part"));
        assert_eq!(description(&comment, "bas"), None);
        assert_eq!(description(&comment, ""), None);
    }
}
