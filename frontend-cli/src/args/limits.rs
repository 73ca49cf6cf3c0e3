//! How processes of steps are run: limits, time, names (FEATURES CL25, CL26, CL62).

use std::time::Duration;

use clap::Args;
use kiln::{Build, Chroot, Dns, OciRuntime, Resources, Swap};

use super::resource::bytes;

/// Flags of `kiln build` that change no key: what steps may use and how they resolve names.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Memory that a RUN step may use (`512m`)
    #[arg(short, long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory and swap together; -1 is no limit (default: no swap beyond --memory)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors that a RUN step may use (`1.5`)
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Weight of a RUN step when processors are short (1024 is usual)
    #[arg(short, long, value_name = "SHARES", allow_hyphen_values = true)]
    pub cpu_shares: Option<String>,
    /// Length of the periods that --cpu-quota is for, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// Processor time of a RUN step in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Processors on which RUN steps run (`0-3`, `0,1`)
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that RUN steps use (`0-1`)
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_mems: Option<String>,
    /// Processes and threads that a RUN step may have; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// Several of these limits in one (`memory=1g,cpu-quota=50000`)
    #[arg(long, value_name = "LIMITS", allow_hyphen_values = true)]
    pub resource: Vec<String>,
    /// Control group, or slice of systemd's, in which those of RUN steps are made
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true)]
    pub cgroup_parent: Option<String>,
    /// What runs RUN steps: kiln's own sandbox, an OCI runtime (`oci=/usr/bin/crun`), or `chroot` where no namespace can
    /// be made, as in most containers (or set KILN_EXECUTOR)
    #[arg(long, value_name = "embedded|oci=PATH|chroot", allow_hyphen_values = true)]
    pub executor: Option<String>,
    /// An OCI runtime that runs RUN steps (as --executor oci=PATH)
    #[arg(long, value_name = "PATH", conflicts_with = "executor")]
    pub runtime: Option<String>,
    /// Kill a RUN step that runs for longer (`10m`)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub step_timeout: Option<String>,
    /// Stop the build after this time (`1h30m`)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub timeout: Option<String>,
    /// A name server of RUN steps in place of the host's
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pub dns: Vec<String>,
    /// A domain in which RUN steps look short names up (`.`: none)
    #[arg(long, value_name = "DOMAIN", allow_hyphen_values = true)]
    pub dns_search: Vec<String>,
    /// An option of the resolver of RUN steps (`ndots:2`)
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub dns_option: Vec<String>,
    /// Leave RUN steps the image's own /etc/hosts
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = super::parse_bool, hide_default_value = true, hide_possible_values = true,
          conflicts_with = "add_host")]
    pub no_hosts: bool,
    #[command(flatten)]
    pub namespaces: NamespaceArgs,
}

/// buildah's choice of namespaces (FEATURES CL61). A step has its own of each kind; no other choice is safe for the host.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NamespaceArgs {
    #[arg(long, hide = true, value_name = "MODE")]
    pub cgroupns: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    pub ipc: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    pub pid: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    pub uts: Option<String>,
    #[arg(long, hide = true, value_name = "MODE")]
    pub userns: Option<String>,
}

impl NamespaceArgs {
    /// Refuses what would put steps into a namespace of the host's or of another container's.
    fn check(&self) -> Result<(), String> {
        let all = [
            ("--cgroupns", &self.cgroupns),
            ("--ipc", &self.ipc),
            ("--pid", &self.pid),
            ("--uts", &self.uts),
            ("--userns", &self.userns),
        ];
        for (flag, mode) in all {
            match mode.as_deref() {
                None | Some("" | "private" | "container" | "auto") => {}
                Some(mode) => {
                    return Err(format!("{flag}={mode}: RUN steps have namespaces of their own (`private`)"));
                }
            }
        }
        Ok(())
    }
}

impl LimitArgs {
    /// Gives `build` what was said.
    pub(crate) fn apply(&self, mut build: Build) -> Result<Build, String> {
        self.namespaces.check()?;
        build = build.resources(self.resources()?).dns(self.dns()?);
        let of_environment = || std::env::var("KILN_EXECUTOR").ok();
        let of_runtime = || self.runtime.as_ref().map(|program| format!("oci={program}"));
        build = match self.executor.clone().or_else(of_runtime).or_else(of_environment).as_deref() {
            None | Some("" | "embedded") => build,
            Some("chroot") => build.executor(Chroot),
            Some(text) => {
                let program = text.strip_prefix("oci=").ok_or_else(|| {
                    format!("--executor {text}: expected `embedded`, `oci=/path/of/a/runtime` or `chroot`")
                })?;
                build.executor(OciRuntime::new(program).map_err(|error| error.to_string())?)
            }
        };
        if let Some(text) = &self.step_timeout {
            build = build.step_timeout(duration("--step-timeout", text)?);
        }
        if let Some(text) = &self.timeout {
            build = build.timeout(duration("--timeout", text)?);
        }
        Ok(build)
    }

    fn dns(&self) -> Result<Dns, String> {
        let plain = |flag: &str, words: &[String]| match words.iter().find(|word| !is_plain(word)) {
            Some(word) => Err(format!("invalid argument `{word}` for {flag}")),
            None => Ok(words.to_vec()),
        };
        let server = |text: &String| {
            text.parse().map_err(|_| format!("invalid argument `{text}` for --dns: it is no IP address"))
        };
        Ok(Dns {
            servers: self.dns.iter().map(server).collect::<Result<_, _>>()?,
            search: plain("--dns-search", &self.dns_search)?,
            options: plain("--dns-option", &self.dns_option)?,
            image_hosts: self.no_hosts,
        })
    }

    fn resources(&self) -> Result<Resources, String> {
        let mut resources = Resources::default();
        for list in &self.resource {
            for pair in super::csv::fields(list).map_err(|why| format!("--resource {list}: {why}"))? {
                let (key, value) = pair
                    .split_once('=')
                    .ok_or_else(|| format!("--resource {list}: `{pair}` is no key=value"))?;
                if !set(&mut resources, "--resource", &key.trim().to_ascii_lowercase(), value)? {
                    return Err(format!("--resource {list}: there is no `{key}`, only {}", KEYS.join(", ")));
                }
            }
        }
        let flags = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("cpus", &self.cpus),
            ("pids-limit", &self.pids_limit),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                set(&mut resources, &format!("--{key}"), key, value)?;
            }
        }
        resources.parent = self.cgroup_parent.clone().filter(|parent| !parent.is_empty());
        match (resources.memory_bytes, resources.memory_swap) {
            (None, Some(Swap::Bytes(_))) => Err("--memory-swap needs --memory".to_owned()),
            (Some(memory), Some(Swap::Bytes(both))) if both < memory => {
                Err("--memory-swap counts the memory as well, so it cannot be below --memory".to_owned())
            }
            _ => Ok(resources),
        }
    }
}

/// What `--resource` takes.
const KEYS: [&str; 9] = [
    "memory",
    "memory-swap",
    "cpu-shares",
    "cpu-period",
    "cpu-quota",
    "cpuset-cpus",
    "cpuset-mems",
    "cpus",
    "pids-limit",
];

/// Sets one limit; `false` where there is none of that name. 0 is no limit, as docker has it.
fn set(resources: &mut Resources, flag: &str, key: &str, value: &str) -> Result<bool, String> {
    let invalid = |why: &str| format!("invalid argument `{value}` for {flag}: {why}");
    let number = || match value.trim() {
        "-1" | "0" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| invalid("it is no number")),
    };
    let list = || match value.trim() {
        "" => Ok(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte)) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(invalid("expected numbers and ranges, as in 0-2,7")),
    };
    match key {
        "memory" => resources.memory_bytes = Some(bytes(value)?).filter(|bytes| *bytes > 0),
        "memory-swap" => {
            resources.memory_swap = match value.trim() {
                "-1" => Some(Swap::Unlimited),
                text => Some(bytes(text)?).filter(|bytes| *bytes > 0).map(Swap::Bytes),
            }
        }
        "cpu-shares" => resources.cpu_shares = number()?,
        "cpu-period" => resources.cpu_period_micros = number()?,
        "cpu-quota" => resources.cpu_quota_micros = number()?,
        "cpuset-cpus" => resources.cpuset_cpus = list()?,
        "cpuset-mems" => resources.cpuset_mems = list()?,
        "pids-limit" => resources.pids = number()?,
        "cpus" => {
            let cpus: f64 = value.trim().parse().map_err(|_| invalid("it is no number"))?;
            if !(0.0..=1e6).contains(&cpus) {
                return Err(invalid("it is no number of processors"));
            }
            // In the kernel's usual period of 100 ms.
            resources.cpu_quota_micros = Some((cpus * 100_000.0) as u64).filter(|quota| *quota > 0);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether a word can stand in a line of resolv.conf and bring no second one.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A time as Go's programs take it: `90s`, `1h30m`, `1.5m`, `250ms`; a number alone is seconds.
pub(super) fn duration(flag: &str, text: &str) -> Result<Duration, String> {
    let invalid =
        || format!("invalid argument `{text}` for {flag}: expected a time such as 90s, 10m or 1h30m");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        rest = "";
        if seconds > 0 {
            return Ok(Duration::from_secs(seconds));
        }
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return Err(invalid()),
        };
        seconds += number.parse::<f64>().map_err(|_| invalid())? * scale;
        rest = after;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stays_in_namespaces_of_its_own() {
        let check = |mode: &str| NamespaceArgs { pid: Some(mode.into()), ..Default::default() }.check();
        assert_eq!(check("private"), Ok(()));
        assert_eq!(
            check("host").unwrap_err(),
            "--pid=host: RUN steps have namespaces of their own (`private`)"
        );
    }

    #[test]
    fn limits_stand_alone_or_in_a_list() {
        let args = LimitArgs {
            memory: Some("512m".into()),
            cpus: Some("1.5".into()),
            pids_limit: Some("-1".into()),
            resource: vec!["memory=1g,memory-swap=-1,cpu-shares=512".into(), "cpuset-cpus=0-1".into()],
            ..LimitArgs::default()
        };
        let expected = Resources {
            memory_bytes: Some(512 << 20),
            memory_swap: Some(Swap::Unlimited),
            cpu_shares: Some(512),
            cpu_quota_micros: Some(150_000),
            cpuset_cpus: Some("0-1".into()),
            ..Resources::default()
        };
        assert_eq!(args.resources().unwrap(), expected);
        for list in
            ["memory", "disk=1", "cpuset-cpus=a", "memory-swap=1g", "memory=2g,memory-swap=1g", "cpus=x"]
        {
            let args = LimitArgs { resource: vec![list.into()], ..LimitArgs::default() };
            assert!(args.resources().is_err(), "{list}");
        }
    }

    #[test]
    fn times_have_units() {
        let read = |text| duration("--timeout", text).ok();
        let expected = [("90s", 90_000), ("1h30m", 5_400_000), ("1.5m", 90_000), ("250ms", 250), ("7", 7000)];
        for (text, millis) in expected {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0s", "m", "1", "1x", "-1s", "1h2"].into_iter().filter(|text| *text != "1") {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn words_for_the_resolver_are_one_line() {
        let args = |option: &str| LimitArgs { dns_option: vec![option.into()], ..LimitArgs::default() };
        assert!(args("ndots:2").dns().is_ok());
        assert!(args("a\nnameserver 6.6.6.6").dns().is_err());
        let server = LimitArgs { dns: vec!["dns.example".into()], ..LimitArgs::default() };
        assert_eq!(
            server.dns().unwrap_err(),
            "invalid argument `dns.example` for --dns: it is no IP address"
        );
    }
}
