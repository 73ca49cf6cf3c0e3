//! `--format`: the part of Go's templates that docker's users write.
//!
//! Text with `{{.Field}}`, `{{json .Field}}`, `{{json .}}`, `\t` and `\n`; `json` alone is `{{json .}}`. One line an object.

use serde_json::Value;

/// Shows `object` as `format` says, with a line's end.
pub(crate) fn render(format: &str, object: &Value) -> Result<String, String> {
    let format = if format == "json" { "{{json .}}" } else { format };
    let unescaped = format.replace("\\t", "\t").replace("\\n", "\n");
    let mut text = String::new();
    let mut rest = unescaped.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        text += before;
        let (action, tail) =
            after.split_once("}}").ok_or_else(|| format!("template `{format}`: `{{{{` is never closed"))?;
        text += &evaluate(action.trim_matches(['-', ' ']), object)?;
        rest = tail;
    }
    text += rest;
    text.push('\n');
    Ok(text)
}

fn evaluate(action: &str, object: &Value) -> Result<String, String> {
    let (is_json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let value = path
        .strip_prefix('.')
        .and_then(|path| {
            path.split('.').filter(|name| !name.is_empty()).try_fold(object, |at, name| at.get(name))
        })
        .ok_or_else(|| match object.as_object() {
            Some(fields) => {
                let known: Vec<_> = fields.keys().map(|name| format!(".{name}")).collect();
                format!("template: there is no `{path}`; there are {}", known.join(", "))
            }
            None => format!("template: there is no `{path}`"),
        })?;
    Ok(match value {
        Value::String(text) if !is_json => text.clone(),
        value => value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_json_are_shown() {
        let object = serde_json::json!({"ID": "abc", "Size": 3, "Of": {"Name": "x\ty"}});
        assert_eq!(render("{{.ID}}\\t{{ .Size }}", &object).unwrap(), "abc\t3\n");
        assert_eq!(render("{{json .Of}}", &object).unwrap(), "{\"Name\":\"x\\ty\"}\n");
        assert_eq!(render("{{.Of.Name}}", &object).unwrap(), "x\ty\n");
        assert_eq!(render("json", &object).unwrap(), format!("{object}\n"));
    }

    #[test]
    fn an_unknown_field_names_those_that_there_are() {
        let object = serde_json::json!({"ID": "abc", "Size": 3});
        assert_eq!(
            render("{{.Nope}}", &object).unwrap_err(),
            "template: there is no `.Nope`; there are .ID, .Size"
        );
        assert!(render("{{.ID", &object).is_err());
    }
}
