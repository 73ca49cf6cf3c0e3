//! `--output PATH | - | type=…,dest=…` (FEATURES CL9, EX).

use std::path::PathBuf;

use kiln::{DockerTarget, ImageOptions, OutputSpec, TreeOptions};

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
            "-" => Ok(OutputSpec::Tar { dest: None, options: TreeOptions::default() }),
            path => Ok(OutputSpec::Local { dest: PathBuf::from(path), options: TreeOptions::default() }),
        };
    }
    // A key alone is true.
    let attrs = fields.iter().map(|field| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        (lowered(key.trim()), value.to_owned())
    });
    Fields { text, attrs: attrs.collect() }.into_spec()
}

/// In lower case, but for what follows `annotation.`: those keys are the user's.
fn lowered(key: &str) -> String {
    match key.split_once('.') {
        Some((first, rest)) if first.to_lowercase().starts_with("annotation") => {
            format!("{}.{rest}", first.to_lowercase())
        }
        _ => key.to_lowercase(),
    }
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
            "image" => Ok(OutputSpec::Image { options: self.image_options()? }),
            "registry" => {
                self.attrs.insert(0, ("push".to_owned(), String::new()));
                Ok(OutputSpec::Image { options: self.image_options()? })
            }
            "oci" => {
                let tar = self.take_bool("tar")?.unwrap_or(true);
                let dest = self.dest()?;
                if !tar && dest.is_none() {
                    return Err(format!("--output {}: a directory needs dest=", self.text));
                }
                Ok(OutputSpec::Oci { dest, tar, options: self.image_options()? })
            }
            "docker" => {
                let tar = self.take_bool("tar")?.unwrap_or(true);
                let context = self.take("context");
                // Without a file the image goes into a daemon (FEATURES EX3).
                let has_dest = self.attrs.iter().any(|(key, _)| key == "dest");
                let to = match (self.dest()?, tar) {
                    (Some(dest), true) => DockerTarget::File(dest),
                    (Some(dest), false) => DockerTarget::Directory(dest),
                    (None, false) => {
                        return Err(format!("--output {}: a directory needs dest=", self.text));
                    }
                    (None, true) if has_dest => DockerTarget::Stdout,
                    (None, true) => DockerTarget::Engine { context },
                };
                Ok(OutputSpec::Docker { to, options: self.image_options()? })
            }
            "tar" => Ok(OutputSpec::Tar { dest: self.dest()?, options: self.tree_options()? }),
            "local" => match self.dest()? {
                Some(dest) => Ok(OutputSpec::Local { dest, options: self.tree_options()? }),
                None => Err(format!("--output {}: dest is required and is a directory", self.text)),
            },
            "cacheonly" => Ok(OutputSpec::CacheOnly),
            _ => Err(format!(
                "--output {}: there is no type `{kind}`, only image, registry, oci, docker, tar, local and cacheonly",
                self.text
            )),
        }
    }

    fn image_options(&self) -> Result<ImageOptions, String> {
        let mut options = ImageOptions::default();
        for (key, value) in &self.attrs {
            let is_known = options.set(key, value).map_err(|error| self.problem(&error))?;
            self.must_be_known(key, is_known)?;
        }
        Ok(options)
    }

    fn tree_options(&self) -> Result<TreeOptions, String> {
        let mut options = TreeOptions::default();
        for (key, value) in &self.attrs {
            let is_known = options.set(key, value).map_err(|error| self.problem(&error))?;
            self.must_be_known(key, is_known)?;
        }
        Ok(options)
    }

    fn problem(&self, error: &kiln::Error) -> String {
        let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("--output {}: {error}{hint}", self.text)
    }

    fn must_be_known(&self, key: &str, is_known: bool) -> Result<(), String> {
        if is_known { Ok(()) } else { Err(format!("--output {}: there is no key `{key}`", self.text)) }
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
            .map(|value| match value.as_str() {
                "" => Ok(true),
                value => super::parse_bool(value)
                    .map_err(|error| format!("--output {}: {key}: {error}", self.text)),
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
            Ok(OutputSpec::Local { dest, options }) => format!("local {} {options:?}", dest.display()),
            Ok(OutputSpec::Tar { dest, .. }) => format!("tar {dest:?}"),
            Ok(OutputSpec::Oci { dest, tar, options }) => {
                format!("oci {dest:?} tar: {tar} rewrite: {}", options.rewrite_timestamp)
            }
            Ok(OutputSpec::Docker { to, .. }) => format!("docker {to:?}"),
            Ok(OutputSpec::Image { options }) => format!("image {:?}", options.names),
            Ok(other) => format!("{other:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_path_is_a_directory_and_a_dash_a_tar_on_standard_output() {
        assert_eq!(
            read("out"),
            "local out TreeOptions { platform_split: None, delete: false, attestation_prefix: \"\" }"
        );
        assert!(read("dest=out").starts_with("local dest=out "));
        assert_eq!(read("-"), "tar None");
    }

    #[test]
    fn the_fields_say_what_and_where() {
        assert_eq!(
            read("type=oci,dest=a.tar,rewrite-timestamp=true"),
            r#"oci Some("a.tar") tar: true rewrite: true"#
        );
        assert_eq!(read("type=oci,tar=false,dest=d"), r#"oci Some("d") tar: false rewrite: false"#);
        assert_eq!(read("TYPE=docker,DEST=-"), "docker Stdout");
        assert_eq!(read("type=docker,dest=d,tar=false"), r#"docker Directory("d")"#);
        assert_eq!(read("type=docker,context=c"), r#"docker Engine { context: Some("c") }"#);
        assert_eq!(read(r#"type=image,"name=a,b""#), r#"image ["a", "b"]"#);
        assert_eq!(
            read("type=local,dest=x,mode=delete,platform-split"),
            "local x TreeOptions { platform_split: Some(true), delete: true, attestation_prefix: \"\" }"
        );
        assert_eq!(read("type=cacheonly"), "CacheOnly");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(read("a=b,c=d"), "--output a=b,c=d: type is required");
        assert_eq!(
            read("type=ocy,dest=x"),
            "--output type=ocy,dest=x: there is no type `ocy`, only image, registry, oci, docker, tar, local and cacheonly"
        );
        assert_eq!(read("type=local"), "--output type=local: dest is required and is a directory");
        assert_eq!(read("type=oci,dset=x"), "--output type=oci,dset=x: there is no key `dset`");
        assert_eq!(
            read("type=oci,compression=lzma"),
            "--output type=oci,compression=lzma: unknown compression `lzma` (there are gzip, zstd, estargz and uncompressed)"
        );
    }
}
