//! What a build is for: the platforms asked for, or all that its bases are there for.

use kiln_image::{ImageRef, InvalidPlatform, Platform};
use kiln_parser::Dockerfile;
use kiln_solver::plan::{self, PlanRequest};

use crate::Error;
use crate::bases::Bases;
use crate::session::Session;

impl Session<'_> {
    /// What to build for, each once; one `None` where nothing is asked for.
    pub(crate) fn platforms(
        &self,
        dockerfile: &Dockerfile,
        request: &mut PlanRequest,
        bases: &Bases<'_>,
    ) -> Result<Vec<Option<Platform>>, Error> {
        if self.build.all_platforms {
            return self.common_platforms(dockerfile, request, bases);
        }
        let mut platforms = Vec::new();
        for name in &self.build.platforms {
            let platform: Platform =
                name.parse().map_err(|error: InvalidPlatform| Error::user(error.to_string()))?;
            if !platforms.contains(&Some(platform.clone())) {
                platforms.push(Some(platform));
            }
        }
        if platforms.is_empty() {
            platforms.push(None);
        }
        Ok(platforms)
    }

    /// What all images are there for that depend on what is built for (FEATURES CL42).
    fn common_platforms(
        &self,
        dockerfile: &Dockerfile,
        request: &mut PlanRequest,
        bases: &Bases<'_>,
    ) -> Result<Vec<Option<Platform>>, Error> {
        if !self.build.platforms.is_empty() {
            return Err(Error::user("--platform and --all-platforms cannot be used together"));
        }
        // An image of a fixed platform (`FROM --platform=$BUILDPLATFORM`) is the same whatever is built for.
        let mut names_for = |platform: Platform| {
            request.platform = Some(platform);
            plan::base_names(dockerfile, request)
        };
        let elsewhere = names_for(Platform::new(&Platform::host().os, "elsewhere", ""))?;
        let mut images: Vec<ImageRef> = names_for(Platform::host())?
            .into_iter()
            .filter(|name| !elsewhere.contains(name))
            .map(|(image, _)| image)
            .collect();
        images.dedup();
        let mut common: Option<Vec<Platform>> = None;
        for image in &images {
            let mut offered = bases.platforms(image)?;
            // No other system's steps run here.
            offered.retain(|platform| platform.os == Platform::host().os);
            match &mut common {
                None => common = Some(offered),
                Some(common) => common.retain(|platform| offered.contains(platform)),
            }
        }
        let mut common = common.ok_or_else(|| {
            Error::user("--all-platforms: the build has no base image that could tell the platforms")
                .hinted("name them with --platform")
        })?;
        common.sort();
        common.dedup();
        if common.is_empty() {
            let names: Vec<String> = images.iter().map(ToString::to_string).collect();
            let names = names.join(", ");
            return Err(Error::user(format!(
                "--all-platforms: there is no platform that all of {names} are for"
            )));
        }
        Ok(common.into_iter().map(Some).collect())
    }
}
