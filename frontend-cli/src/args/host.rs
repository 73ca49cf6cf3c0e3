//! `--add-host name:address` (FEATURES CL22).

use kiln::HostAddress;

/// Understands `name:address` and `name=address`; several addresses are joined by commas, IPv6 may be in brackets.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, HostAddress)>, String> {
    let invalid = |why: &str| format!("invalid argument `{text}` for --add-host: {why}");
    let (name, addresses) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(name, addresses)| !name.is_empty() && !addresses.is_empty())
        .ok_or_else(|| invalid("expected host:ip"))?;
    addresses
        .split(',')
        .map(|address| {
            if address == "host-gateway" {
                return Ok((name.to_lowercase(), HostAddress::Gateway));
            }
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            let address = bare.parse().map_err(|_| invalid(&format!("`{bare}` is no IP address")))?;
            Ok((name.to_lowercase(), HostAddress::Ip(address)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_in_all_spellings() {
        let read = |text| {
            parse(text).map(|hosts| {
                hosts
                    .iter()
                    .map(|(n, a)| match a {
                        HostAddress::Ip(a) => format!("{n} {a}"),
                        HostAddress::Gateway => format!("{n} gateway"),
                    })
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(read("A:10.0.0.1"), Ok(vec!["a 10.0.0.1".into()]));
        assert_eq!(read("a=10.0.0.1,10.0.0.2"), Ok(vec!["a 10.0.0.1".into(), "a 10.0.0.2".into()]));
        assert_eq!(read("a:::1"), Ok(vec!["a ::1".into()]));
        assert_eq!(read("a=[::1]"), Ok(vec!["a ::1".into()]));
        assert_eq!(read("a:host-gateway"), Ok(vec!["a gateway".into()]));
        for text in ["a", "a:", ":1.2.3.4", "a:b", "a=1.2.3.4,"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
