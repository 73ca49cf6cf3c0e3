//! `--secret id=…[,src=…][,env=…][,type=file|env]` (FEATURES CL7).

use std::path::PathBuf;

use kiln::SecretSource;

use super::csv;

/// Understands one `--secret`. Without `src` and `env` it is the variable named like the id if that is set, else the
/// file named like it.
pub(crate) fn parse(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, SecretSource), String> {
    let mut id = None;
    let (mut source, mut variable, mut kind) = (None, None, None);
    for field in csv::fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field `{field}` in --secret: must be a key=value pair"));
        };
        match key.to_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(format!("unsupported secret type `{value}`: it is `file` or `env`")),
            _ => return Err(format!("unexpected key `{key}` in --secret `{field}`")),
        }
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err("--secret: the id is missing (`id=name,src=path`)".to_owned());
    };
    let is_variable = kind.as_deref() == Some("env");
    let found = match (source, variable) {
        (Some(name), None) if is_variable => SecretSource::Env(name),
        (_, Some(name)) if kind.as_deref() != Some("file") => SecretSource::Env(name),
        (Some(path), _) => SecretSource::File(PathBuf::from(path)),
        (None, _) if kind.as_deref() != Some("file") && (is_variable || lookup(&id).is_some()) => {
            SecretSource::Env(id.clone())
        }
        (None, _) => SecretSource::File(PathBuf::from(&id)),
    };
    Ok((id, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let lookup = |name: &str| (name == "TOKEN").then(|| "canary".to_owned());
        match parse(text, &lookup) {
            Ok((id, source)) => format!("{id}: {source:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_variable() {
        assert_eq!(read("id=a,src=/x"), "a: File(\"/x\")");
        assert_eq!(read("id=a,source=/x"), "a: File(\"/x\")");
        assert_eq!(read("id=a,env=B"), "a: Env(\"B\")");
        assert_eq!(read("type=env,id=a,src=B"), "a: Env(\"B\")");
        assert_eq!(read("\"id=a\",\"src=/x,y\""), "a: File(\"/x,y\")");
    }

    #[test]
    fn an_id_alone_is_a_variable_if_set_and_else_a_file() {
        assert_eq!(read("id=TOKEN"), "TOKEN: Env(\"TOKEN\")");
        assert_eq!(read("id=other"), "other: File(\"other\")");
        assert_eq!(read("id=TOKEN,type=file"), "TOKEN: File(\"TOKEN\")");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(read("src=/x"), "--secret: the id is missing (`id=name,src=path`)");
        assert_eq!(read("id=a,colour=red"), "unexpected key `colour` in --secret `colour=red`");
        assert_eq!(read("a"), "invalid field `a` in --secret: must be a key=value pair");
        assert_eq!(read("id=a,type=b"), "unsupported secret type `b`: it is `file` or `env`");
    }
}
