//! kaniko's words for where an image goes and for its digest (FEATURES CL15, CL56).

use std::path::PathBuf;

use clap::Args;
use kiln::{BuildResult, DockerTarget, ImageOptions, ImageRef, OutputSpec};

use super::parse_bool;

/// Flags of `kiln build`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KanikoArgs {
    /// A name that the image is pushed to (as --tag and --push; with --no-push as --tag); may be repeated
    #[arg(short = 'd', long = "destination", value_name = "NAME", allow_hyphen_values = true)]
    pub destinations: Vec<String>,
    /// Do not push to what --destination names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub no_push: bool,
    /// Also write the image to a docker archive (as --output type=docker,dest=FILE)
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub tar_path: Option<PathBuf>,
    /// Also write the image to a directory (as --output type=oci,tar=false,dest=DIR)
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub oci_layout_path: Option<PathBuf>,
    /// Write the digest of the image's manifest to a file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub digest_file: Option<PathBuf>,
    /// Write `NAME@DIGEST` to a file, a line for each name
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub image_name_with_digest_file: Option<PathBuf>,
    /// Write `NAME:TAG@DIGEST` to a file, a line for each name
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub image_name_tag_with_digest_file: Option<PathBuf>,
}

impl KanikoArgs {
    /// Whether the image is pushed.
    pub(crate) fn pushes(&self) -> bool {
        !self.destinations.is_empty() && !self.no_push
    }

    /// The outputs that are asked for beside `--output`.
    pub(crate) fn outputs(&self) -> Vec<OutputSpec> {
        let options = ImageOptions::default;
        let archive = self
            .tar_path
            .clone()
            .map(|path| OutputSpec::Docker { to: DockerTarget::File(path), options: options() });
        let layout = self.oci_layout_path.clone().map(|path| OutputSpec::Oci {
            dest: Some(path),
            tar: false,
            options: options(),
        });
        archive.into_iter().chain(layout).collect()
    }

    /// The files to be written after the build.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.digest_file, &self.image_name_with_digest_file, &self.image_name_tag_with_digest_file]
            .into_iter()
            .flatten()
    }

    /// What is written into them.
    pub(crate) fn texts(&self, built: &BuildResult) -> Vec<(&PathBuf, String)> {
        // There is a manifest: whoever asks for its digest gets one made.
        let digest = built.manifest_digest.unwrap_or(built.config_digest);
        let lines = |name: &dyn Fn(&ImageRef) -> String| -> String {
            built.names.iter().map(|image| format!("{}@{digest}\n", name(image))).collect()
        };
        let repository = |image: &ImageRef| format!("{}/{}", image.registry(), image.repository());
        let mut texts = Vec::new();
        if let Some(path) = &self.digest_file {
            texts.push((path, digest.to_string()));
        }
        if let Some(path) = &self.image_name_with_digest_file {
            texts.push((path, lines(&repository)));
        }
        if let Some(path) = &self.image_name_tag_with_digest_file {
            texts.push((path, lines(&ToString::to_string)));
        }
        texts
    }
}
