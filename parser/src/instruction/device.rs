//! `RUN --device=` (FEATURES RN35): comma-separated fields, of which the name may stand without its key.

use super::mount::csv;
use crate::suggest::closest;
use crate::{Device, DeviceProblem, boolean};

const KEYS: [&str; 2] = ["name", "required"];

/// Parses a device; nothing in it is expanded (FEATURES VX14).
pub(super) fn parse(text: &str) -> Result<Device, DeviceProblem> {
    let fields = csv(text).ok_or_else(|| DeviceProblem::NotCsv { text: text.to_owned() })?;
    let mut device = Device { name: String::new(), required: false };
    for field in &fields {
        match field.split_once('=').map(|(key, value)| (key.to_lowercase(), value)) {
            None if field.eq_ignore_ascii_case("required") => device.required = true,
            Some((key, value)) if key == "name" => {
                if !device.name.is_empty() {
                    return Err(DeviceProblem::SecondName { name: device.name });
                }
                device.name = value.to_owned();
            }
            Some((key, value)) if key == "required" => {
                device.required = boolean(value)
                    .ok_or_else(|| DeviceProblem::InvalidRequired { value: value.to_owned() })?;
            }
            // `vendor/class=name` looks like a key with a value.
            _ if device.name.is_empty() => device.name.clone_from(field),
            None => return Err(DeviceProblem::NotPair { field: field.clone() }),
            Some((key, _)) => {
                let closest = closest(&key, KEYS);
                return Err(DeviceProblem::UnknownKey { key, field: field.clone(), closest });
            }
        }
    }
    if device.name.is_empty() {
        return Err(DeviceProblem::NoName);
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, required: bool) -> Device {
        Device { name: name.into(), required }
    }

    #[test]
    fn a_device_is_a_name_and_perhaps_required() {
        for (text, wanted) in [
            ("acme.com/gpu", device("acme.com/gpu", false)),
            ("acme.com/gpu=0,required", device("acme.com/gpu=0", true)),
            ("required=true,name=acme.com/gpu=*", device("acme.com/gpu=*", true)),
            ("NAME=gpu,Required=0", device("gpu", false)),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn wrong_devices_are_named_as_buildkit_names_them() {
        let problem = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(problem("a/b=c,name=d/e=f"), "device name already set to a/b=c");
        assert_eq!(problem("a/b,optional"), "invalid field 'optional' must be a key=value pair");
        assert_eq!(problem("a/b,requird=true"), "unexpected key 'requird' in 'requird=true'");
        assert_eq!(problem("a/b,required=maybe"), "invalid value for required: maybe");
        assert_eq!(problem("required"), "no device is named");
    }
}
