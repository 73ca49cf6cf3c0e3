//! `--output PATH | - | type=…,dest=…` (FEATURES CL9, EX).

use std::path::PathBuf;

use kiln::OutputSpec;

use super::csv;

/// Understands one `--output`.
pub(crate) fn parse(text: &str) -> Result<OutputSpec, String> {
    let fields = csv::fields(text)?;
    if let [only] = fields.as_slice()
        && only == text
        && !text.starts_with("type=")
    {
        return match text {
            "" => Err("--output is empty".to_owned()),
            "-" => Ok(OutputSpec::Tar { dest: None }),
            path => Ok(OutputSpec::Local { dest: PathBuf::from(path) }),
        };
    }
    let mut attrs = Vec::new();
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid value `{field}` in --output {text}: expected key=value"));
        };
        attrs.push((key.to_lowercase(), value.to_owned()));
    }
    Fields { text, attrs }.into_spec()
}

struct Fields<'a> {
    text: &'a str,
    attrs: Vec<(String, String)>,
}

impl Fields<'_> {
    fn into_spec(mut self) -> Result<OutputSpec, String> {
        let Some(kind) = self.take("type") else {
            return Err(format!("--output {}: type is required", self.text));
        };
        match kind.as_str() {
            "image" | "registry" => {
                if kind == "registry" || self.take_bool("push")?.unwrap_or(false) {
                    return Err(format!("--output {}: pushing is not there yet", self.text));
                }
                let names = self.take("name").map(|names| names.split(',').map(str::to_owned).collect());
                Ok(OutputSpec::Image { names: names.unwrap_or_default() })
            }
            "oci" => {
                let tar = self.take_bool("tar")?.unwrap_or(true);
                let dest = self.dest()?;
                if !tar && dest.is_none() {
                    return Err(format!("--output {}: a directory needs dest=", self.text));
                }
                Ok(OutputSpec::Oci { dest, tar, attrs: self.attrs })
            }
            "docker" => {
                if self.take_bool("tar")? == Some(false) {
                    return Err(format!("--output {}: tar=false is there for type=oci only", self.text));
                }
                // Without a file the image goes into the engine, which is the store (FEATURES EX3).
                if self.attrs.iter().all(|(key, _)| key != "dest") {
                    let names = self.take("name").map(|names| names.split(',').map(str::to_owned).collect());
                    return Ok(OutputSpec::Image { names: names.unwrap_or_default() });
                }
                Ok(OutputSpec::Docker { dest: self.dest()?, attrs: self.attrs })
            }
            "tar" => Ok(OutputSpec::Tar { dest: self.dest()? }),
            "local" => match self.dest()? {
                Some(dest) => Ok(OutputSpec::Local { dest }),
                None => Err(format!("--output {}: dest is required and is a directory", self.text)),
            },
            "cacheonly" => Ok(OutputSpec::CacheOnly),
            _ => Err(format!(
                "--output {}: there is no type `{kind}`, only image, oci, docker, tar, local and cacheonly",
                self.text
            )),
        }
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.attrs.retain_mut(|(name, value)| {
            let is_it = name == key;
            if is_it {
                found = Some(std::mem::take(value));
            }
            !is_it
        });
        found
    }

    fn take_bool(&mut self, key: &str) -> Result<Option<bool>, String> {
        self.take(key)
            .map(|value| {
                super::parse_bool(&value).map_err(|error| format!("--output {}: {key}: {error}", self.text))
            })
            .transpose()
    }

    /// `None` is standard output.
    fn dest(&mut self) -> Result<Option<PathBuf>, String> {
        match self.take("dest").as_deref() {
            Some("") => Err(format!("--output {}: dest is empty", self.text)),
            None | Some("-") => Ok(None),
            Some(path) => Ok(Some(PathBuf::from(path))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match parse(text) {
            Ok(spec) => format!("{spec:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_path_is_a_directory_and_a_dash_a_tar_on_standard_output() {
        assert_eq!(read("out"), r#"Local { dest: "out" }"#);
        assert_eq!(read("dest=out"), r#"Local { dest: "dest=out" }"#);
        assert_eq!(read("-"), "Tar { dest: None }");
    }

    #[test]
    fn the_fields_say_what_and_where() {
        assert_eq!(
            read("type=oci,dest=a.tar,rewrite-timestamp=true"),
            r#"Oci { dest: Some("a.tar"), tar: true, attrs: [("rewrite-timestamp", "true")] }"#
        );
        assert_eq!(read("type=oci,tar=false,dest=d"), r#"Oci { dest: Some("d"), tar: false, attrs: [] }"#);
        assert_eq!(read("TYPE=docker,DEST=-"), "Docker { dest: None, attrs: [] }");
        assert_eq!(read("type=docker"), "Image { names: [] }");
        assert_eq!(read(r#"type=image,"name=a,b""#), r#"Image { names: ["a", "b"] }"#);
        assert_eq!(read("type=local,dest=x"), r#"Local { dest: "x" }"#);
        assert_eq!(read("type=cacheonly"), "CacheOnly");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(read("a=b,c=d"), "--output a=b,c=d: type is required");
        assert_eq!(
            read("type=ocy,dest=x"),
            "--output type=ocy,dest=x: there is no type `ocy`, only image, oci, docker, tar, local and cacheonly"
        );
        assert_eq!(read("type=local"), "--output type=local: dest is required and is a directory");
        assert_eq!(read("type=image,push=true"), "--output type=image,push=true: pushing is not there yet");
    }
}
