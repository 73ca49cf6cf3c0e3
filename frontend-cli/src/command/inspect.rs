//! `kiln inspect`: a JSON array on standard output, of whatever was found.

use kiln::images::Images;

use crate::args::InspectArgs;
use crate::report::{Failure, Paint, show};
use crate::template;

pub(super) fn run(args: &InspectArgs, images: &Images) -> Result<u8, Failure> {
    let mut found = Vec::new();
    let mut status = 0;
    for name in &args.names {
        match images.inspect(name) {
            Ok(object) => found.push(object),
            Err(error) => {
                show(&error.into(), Paint::for_stderr());
                status = 1;
            }
        }
    }
    match &args.format {
        None => super::print(&array(&found))?,
        Some(format) => {
            for object in &found {
                let object = serde_json::from_str(object).map_err(|error| error.to_string())?;
                super::print(&template::render(format, &object)?)?;
            }
        }
    }
    Ok(status)
}

/// Joins JSON objects, indented as docker does (four spaces a level).
fn array(objects: &[String]) -> String {
    if objects.is_empty() {
        return "[]\n".to_owned();
    }
    let objects: Vec<String> =
        objects.iter().map(|object| indented(object.trim_end()).replace('\n', "\n    ")).collect();
    format!("[\n    {}\n]\n", objects.join(",\n    "))
}

fn indented(object: &str) -> String {
    use serde::Serialize as _;
    let Ok(value) = serde_json::from_str::<serde_json::Value>(object) else { return object.to_owned() };
    let mut bytes = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    match value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, form)) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => object.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_joined_into_an_indented_array() {
        assert_eq!(array(&[]), "[]\n");
        insta::assert_snapshot!(array(&[r#"{"Id":"sha256:1","Config":{"Env":["A=b"]}}"#.into()]), @r#"
        [
            {
                "Id": "sha256:1",
                "Config": {
                    "Env": [
                        "A=b"
                    ]
                }
            }
        ]
        "#);
    }
}
