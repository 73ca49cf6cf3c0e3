//! buildah's flags of what every RUN step may and sees (FEATURES RN36). Only the user gives these, never a Dockerfile.

use std::path::Path;

use clap::Args;
use kiln::{Build, Capabilities, ExtraGroups, HostDevice, Mount, SecurityOptions, Volume, VolumeAccess};

/// Flags of `kiln build` that are part of each step's key.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StepArgs {
    /// A capability that root has in RUN steps beyond docker's (`NET_ADMIN`, `all`), with the system calls that it is for
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', allow_hyphen_values = true)]
    pub cap_add: Vec<String>,
    /// A capability of docker's that root does not have in RUN steps (`NET_RAW`, `all`)
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',', allow_hyphen_values = true)]
    pub cap_drop: Vec<String>,
    /// How RUN steps are confined: `seccomp=unconfined` filters no system calls, with `no-new-privileges` no set-id program
    /// gives rights
    #[arg(long = "security-opt", value_name = "OPTION", allow_hyphen_values = true)]
    pub security_options: Vec<String>,
    /// A directory or file of this machine's that every RUN step sees (`ro`: without writing, `O`: what it writes is lost,
    /// `noexec`: no program in it starts, `U`: it is given to the step's user)
    #[arg(long = "volume", value_name = "HOST:STEP[:OPTIONS]", allow_hyphen_values = true)]
    pub volumes: Vec<String>,
    /// A mount of every RUN step, as `RUN --mount` has it (`type=secret,id=token`)
    #[arg(long = "mount", value_name = "MOUNT", allow_hyphen_values = true)]
    pub mounts: Vec<String>,
    /// A device of this machine's in every RUN step: a path (`/dev/fuse`, or a directory), or `vendor/class=name` of a CDI
    /// specification
    #[arg(long = "device", value_name = "HOST[:STEP][:PERMISSIONS]", allow_hyphen_values = true)]
    pub devices: Vec<String>,
    /// A group that RUN steps are in besides their own, by number or name in the image; `keep-groups`: in place of their
    /// own those of kiln
    #[arg(long = "group-add", value_name = "GROUP", value_delimiter = ',', allow_hyphen_values = true)]
    pub groups: Vec<String>,
}

/// In place of groups: those that kiln has.
const KEEP_GROUPS: &str = "keep-groups";

impl StepArgs {
    /// Gives `build` what was said.
    pub(crate) fn apply(&self, build: Build) -> Result<Build, String> {
        let capabilities = Capabilities::new(&self.cap_add, &self.cap_drop)
            .map_err(|error| format!("--cap-add, --cap-drop: {error}"))?;
        let mut build = build.capabilities(capabilities).security_options(self.security_options()?);
        for text in &self.volumes {
            build = build.volume(volume(text).map_err(|why| format!("--volume {text}: {why}"))?);
        }
        for text in &self.mounts {
            build = build.mount(Mount::parse(text).map_err(|why| format!("--mount {text}: {why}"))?);
        }
        for text in &self.devices {
            // What does not begin as a path is the name of a specification's.
            if !text.starts_with('/') {
                build = build.device(text);
                continue;
            }
            for device in devices(text).map_err(|why| format!("--device {text}: {why}"))? {
                build = build.host_device(device);
            }
        }
        Ok(build.groups(self.extra_groups()?))
    }

    fn extra_groups(&self) -> Result<ExtraGroups, String> {
        match self.groups.as_slice() {
            [only] if only == KEEP_GROUPS => Ok(ExtraGroups::Kept),
            groups if groups.iter().any(|group| group == KEEP_GROUPS) => {
                Err(format!("--group-add {KEEP_GROUPS}: no other group can be added to those that are kept"))
            }
            groups => Ok(ExtraGroups::Named(groups.to_vec())),
        }
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

/// `HOST[:STEP][:PERMISSIONS]`, the second of two being either.
fn devices(text: &str) -> Result<Vec<HostDevice>, String> {
    let fields: Vec<&str> = text.split(':').collect();
    let (host, target, permissions) = match fields.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, target] if target.starts_with('/') => (*host, *target, "rwm"),
        [host, permissions] => (*host, *host, *permissions),
        [host, target, permissions] => (*host, *target, *permissions),
        _ => return Err("expected `HOST[:STEP][:PERMISSIONS]`".to_owned()),
    };
    if permissions.is_empty() || permissions.contains(|letter| !matches!(letter, 'r' | 'w' | 'm')) {
        return Err(format!("`{permissions}` is none of the permissions `r`, `w` and `m`"));
    }
    if !permissions.contains('r') || !permissions.contains('w') {
        return Err("a device that may be read only, or written only, is not supported".to_owned());
    }
    if !target.starts_with('/') || target.trim_matches('/').is_empty() {
        return Err("its place in the step is an absolute path".to_owned());
    }
    HostDevice::find(Path::new(host), Path::new(target)).map_err(|error| error.to_string())
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
    let (mut access, mut no_exec, mut of_user) = (VolumeAccess::Writable, false, false);
    for option in options.unwrap_or_default().split(',') {
        match option {
            // No labels of SELinux are set, mounts are private, and neither set-id programs nor devices work.
            "" | "z" | "Z" | "private" | "rprivate" | "slave" | "rslave" | "nosuid" | "nodev" | "bind"
            | "rbind" => {}
            "exec" => no_exec = false,
            "noexec" => no_exec = true,
            "U" => of_user = true,
            "rw" => access = VolumeAccess::Writable,
            "ro" => access = VolumeAccess::ReadOnly,
            "O" => access = VolumeAccess::Overlay,
            other => {
                return Err(format!(
                    "the option `{other}` is not supported; `ro`, `rw`, `O` (writes are lost), `U` and `noexec` are"
                ));
            }
        }
    }
    let found = std::fs::metadata(source).map_err(|error| error.to_string())?;
    if access == VolumeAccess::Overlay && !found.is_dir() {
        return Err("`O` is for directories".to_owned());
    }
    if of_user && access == VolumeAccess::Overlay {
        return Err("with `O` the host's files keep their owners, so `U` has nothing to give".to_owned());
    }
    Ok(Volume { source: source.into(), target: target.to_owned(), access, no_exec, of_user })
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
            ["/", "name:/x", "/:x", "/:/", "/:/x:shared", "/:/x:ro:z", "/nonexistent/a:/x", "/dev/null:/x:O"]
        {
            assert!(access(wrong).is_err(), "{wrong}");
        }
        assert!(volume("/:/host:noexec").unwrap().no_exec);
    }

    #[test]
    fn what_is_given_to_the_user_of_the_step_is_no_overlay() {
        assert_eq!(volume("/etc:/x:U").map(|volume| volume.of_user), Ok(true));
        assert!(volume("/etc:/x:U,O").is_err());
    }

    #[test]
    fn a_device_is_a_path_with_a_place_and_permissions() {
        let targets = |text: &str| {
            devices(text)
                .map(|all| all.into_iter().map(|one| one.target.display().to_string()).collect::<Vec<_>>())
        };
        assert_eq!(targets("/dev/null"), Ok(vec!["/dev/null".to_owned()]));
        assert_eq!(targets("/dev/null:/dev/mine:rw"), Ok(vec!["/dev/mine".to_owned()]));
        assert_eq!(targets("/dev/null:rwm"), Ok(vec!["/dev/null".to_owned()]));
        for wrong in
            ["/dev/null:r", "/dev/null:/x:rx", "/dev/null:/:rw", "/dev/nothing", "/etc/passwd", "/a:/b:rw:c"]
        {
            assert!(targets(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kept_groups_are_alone() {
        let groups = |groups: &[&str]| {
            StepArgs { groups: groups.iter().map(|&name| name.to_owned()).collect(), ..StepArgs::default() }
                .extra_groups()
        };
        assert_eq!(groups(&["keep-groups"]), Ok(ExtraGroups::Kept));
        assert_eq!(groups(&["tape", "44"]), Ok(ExtraGroups::Named(vec!["tape".into(), "44".into()])));
        assert!(groups(&["keep-groups", "44"]).is_err());
    }
}
