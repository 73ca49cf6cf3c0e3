//! `--call`, `--check` and `--format`: what to do with the Dockerfile, and in which form to tell it.

use super::csv;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Build it.
    Build,
    /// Lint it.
    Check,
    /// Tell what the target can be given.
    Outline,
    /// Tell which stages there are.
    Targets,
    /// Tell which methods there are.
    Describe,
}

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs, with buildx's keys.
    Json,
}

/// A parsed `--call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) format: Format,
    /// Findings alone do not make the exit status 1.
    pub(crate) ignore_status: bool,
}

/// Parses `METHOD[,format=text|json][,ignorestatus=true]`; `is_check` and `format` are flags of their own.
pub(crate) fn parse(text: &str, is_check: bool, format: Option<&str>) -> Result<Call, String> {
    let mut call = Call { method: Method::Build, format: Format::Text, ignore_status: false };
    let mut name = None;
    for field in
        csv::fields(text).map_err(|problem| format!("invalid value `{text}` for --call: {problem}"))?
    {
        match field.split_once('=') {
            Some(("format", value)) => call.format = parse_format(value)?,
            Some(("ignorestatus", value)) => {
                call.ignore_status =
                    super::parse_bool(value).map_err(|problem| format!("--call ignorestatus: {problem}"))?;
            }
            Some((key, _)) => return Err(format!("invalid value `{text}` for --call: there is no `{key}`")),
            None if name.is_some() => {
                return Err(format!("invalid value `{text}` for --call: one method at a time"));
            }
            None => name = Some(field),
        }
    }
    call.method = match name.as_deref().unwrap_or_default() {
        _ if is_check => Method::Check,
        "" | "build" => Method::Build,
        // BuildKit's name for it.
        "check" | "lint" => Method::Check,
        "outline" => Method::Outline,
        "targets" => Method::Targets,
        "subrequests.describe" => Method::Describe,
        other => {
            return Err(format!(
                "--call={other}: there is no such method; there are build, check, outline, targets and subrequests.describe"
            ));
        }
    };
    if let Some(format) = format {
        call.format = parse_format(format)?;
    }
    Ok(call)
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "" | "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        other => Err(format!("there is no format `{other}`; there are text and json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_a_form_and_may_ignore_what_it_finds() {
        let call = parse("check,format=json,ignorestatus=true", false, None).unwrap();
        assert_eq!(call, Call { method: Method::Check, format: Format::Json, ignore_status: true });
        assert_eq!(parse("lint", false, Some("json")).unwrap().format, Format::Json);
        assert_eq!(parse("build", true, None).unwrap().method, Method::Check);
        assert_eq!(parse("", false, None).unwrap().method, Method::Build);
        assert_eq!(parse("subrequests.describe", false, None).unwrap().method, Method::Describe);
    }

    #[test]
    fn what_is_no_method_is_refused() {
        for text in ["chekc", "check,outline", "check,form=json", "check,format=xml", "check,ignorestatus=x"]
        {
            assert!(parse(text, false, None).is_err(), "{text}");
        }
    }
}
