//! buildah's flags of what every RUN step may and sees (FEATURES RN36). Only the user gives these, never a Dockerfile.

use clap::Args;
use kiln::{Build, Capabilities, SecurityOptions, Volume, VolumeAccess};

/// Flags of `kiln build` that are part of each step's key.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StepArgs {
    /// A capability that root has in RUN steps beyond docker's (`NET_ADMIN`, `all`); system calls stay filtered
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', allow_hyphen_values = true)]
    pub cap_add: Vec<String>,
    /// A capability of docker's that root does not have in RUN steps (`NET_RAW`, `all`)
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', allow_hyphen_values = true)]
    pub cap_drop: Vec<String>,
    /// How RUN steps are confined: `seccomp=unconfined` filters no system calls, with `no-new-privileges` no set-id program
    /// gives rights
    #[arg(long = "security-opt", value_name = "OPTION", allow_hyphen_values = true)]
    pub security_options: Vec<String>,
    /// A directory or file of this machine's that every RUN step sees (`ro`: without writing, `O`: what it writes is lost)
    #[arg(long = "volume", value_name = "HOST:STEP[:OPTIONS]", allow_hyphen_values = true)]
    pub volumes: Vec<String>,
}

impl StepArgs {
    /// Gives `build` what was said.
    pub(crate) fn apply(&self, build: Build) -> Result<Build, String> {
        let capabilities = Capabilities::new(&self.cap_add, &self.cap_drop)
            .map_err(|error| format!("--cap-add, --cap-drop: {error}"))?;
        let mut build = build.capabilities(capabilities).security_options(self.security_options()?);
        for text in &self.volumes {
            build = build.volume(volume(text).map_err(|why| format!("--volume {text}: {why}"))?);
        }
        Ok(build)
    }

    fn security_options(&self) -> Result<SecurityOptions, String> {
        let mut options = SecurityOptions::default();
        for text in &self.security_options {
            let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
            match (key, value) {
                ("seccomp", "unconfined") => options.unfiltered = true,
                // kiln's own filter is docker's default, and it uses none of these.
                ("seccomp", "" | "default" | "builtin")
                | ("label" | "apparmor", "disable" | "unconfined" | "docker-default") => {}
                ("no-new-privileges", "" | "true") => options.no_new_privileges = true,
                ("no-new-privileges", "false") => options.no_new_privileges = false,
                _ => {
                    return Err(format!(
                        "--security-opt {text}: `seccomp=unconfined` and `no-new-privileges` are supported"
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn volume(text: &str) -> Result<Volume, String> {
    let mut fields = text.split(':');
    let (Some(source), Some(target), options, None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("expected `HOST:STEP[:OPTIONS]`".to_owned());
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err("both paths begin with `/`".to_owned());
    }
    if target.trim_matches('/').is_empty() {
        return Err("it would hide the whole image".to_owned());
    }
    let mut access = VolumeAccess::Writable;
    for option in options.unwrap_or_default().split(',') {
        match option {
            // No labels of SELinux are set, mounts are private, and neither set-id programs nor devices work.
            "" | "z" | "Z" | "private" | "rprivate" | "nosuid" | "nodev" | "exec" | "bind" | "rbind" => {}
            "rw" => access = VolumeAccess::Writable,
            "ro" => access = VolumeAccess::ReadOnly,
            "O" => access = VolumeAccess::Overlay,
            other => {
                return Err(format!(
                    "the option `{other}` is not supported; `ro`, `rw` and `O` (writes are lost) are"
                ));
            }
        }
    }
    let found = std::fs::metadata(source).map_err(|error| error.to_string())?;
    if access == VolumeAccess::Overlay && !found.is_dir() {
        return Err("`O` is for directories".to_owned());
    }
    Ok(Volume { source: source.into(), target: target.to_owned(), access })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_two_absolute_paths_and_options() {
        let access = |text: &str| volume(text).map(|volume| volume.access);
        assert_eq!(access("/:/host"), Ok(VolumeAccess::Writable));
        assert_eq!(access("/:/host:ro,Z"), Ok(VolumeAccess::ReadOnly));
        assert_eq!(access("/:/host:O"), Ok(VolumeAccess::Overlay));
        for wrong in
            ["/", "name:/x", "/:x", "/:/", "/:/x:U", "/:/x:ro:z", "/nonexistent/a:/x", "/dev/null:/x:O"]
        {
            assert!(access(wrong).is_err(), "{wrong}");
        }
    }
}
