//! Services that are links to `/dev/tcp/HOST/PORT` (specification of qrexec, 1.6): numeric addresses only.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// What a link fixes; the call's argument gives the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    host: Option<String>,
    port: Option<String>,
    /// More than a host and a port.
    crooked: bool,
}

/// The place that a link's target names; `None` when it is not below `/dev/tcp`.
pub(super) fn link(target: &Path) -> Option<Place> {
    let rest = target.to_str()?.strip_prefix("/dev/tcp")?;
    let mut parts = match rest.strip_prefix('/') {
        Some(parts) => parts.split('/'),
        None if rest.is_empty() => {
            return Some(Place {
                host: None,
                port: None,
                crooked: false,
            });
        }
        None => return None,
    };
    Some(Place {
        host: parts.next().map(str::to_owned),
        port: parts.next().map(str::to_owned),
        crooked: parts.next().is_some(),
    })
}

/// The address of a place and an argument.
pub(super) fn address(place: &Place, argument: &str) -> Result<SocketAddr, String> {
    let (host, port) = match (&place.host, &place.port) {
        _ if place.crooked => return Err("a link has a host and a port, no more".to_owned()),
        (Some(host), Some(port)) if argument.is_empty() => (host.as_str(), port.as_str()),
        (Some(_), Some(_)) => {
            return Err("host and port are fixed, but the call has an argument".to_owned());
        }
        (Some(host), None) => (host.as_str(), argument),
        (None, _) => argument
            .rsplit_once('+')
            .ok_or_else(|| "the argument is not HOST+PORT".to_owned())?,
    };
    Ok(SocketAddr::new(ip(host)?, self::port(port)?))
}

/// IPv6 addresses have `+` for `:`, because an argument cannot hold a colon.
fn ip(host: &str) -> Result<IpAddr, String> {
    host.replace('+', ":")
        .parse()
        .map_err(|_| "the host is not a numeric address".to_owned())
}

/// A decimal port from 1 to 65535, without leading zeros.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits && !text.starts_with('0'))
        .ok_or_else(|| "the port is not a number from 1 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numeric_and_exact() {
        for (target, argument, expected) in [
            ("/dev/tcp/127.0.0.1/8082", "", Some("127.0.0.1:8082")),
            ("/dev/tcp/127.0.0.1/8082", "80", None),
            ("/dev/tcp/127.0.0.1", "80", Some("127.0.0.1:80")),
            ("/dev/tcp/127.0.0.1", "", None),
            ("/dev/tcp/127.0.0.1", "080", None),
            ("/dev/tcp/127.0.0.1", "0", None),
            ("/dev/tcp/127.0.0.1", "65536", None),
            ("/dev/tcp/127.0.0.1", "+80", None),
            ("/dev/tcp/127.0.0.1", "-1", None),
            ("/dev/tcp/::1/22", "", Some("[::1]:22")),
            ("/dev/tcp", "127.0.0.1+80", Some("127.0.0.1:80")),
            ("/dev/tcp", "++1+80", Some("[::1]:80")),
            ("/dev/tcp", "fe80++1+80", Some("[fe80::1]:80")),
            ("/dev/tcp", "80", None),
            ("/dev/tcp", "localhost+80", None),
            ("/dev/tcp", "127.0.0_1+80", None),
            ("/dev/tcp", "127.0.0.1+", None),
            ("/dev/tcp", "127.1+80", None),
            ("/dev/tcp/localhost/80", "", None),
            ("/dev/tcp/127.0.0.1/80/x", "", None),
            ("/dev/tcp/127.0.0.1/", "", None),
            ("/dev/tcp/", "80", None),
        ] {
            let place = link(Path::new(target)).unwrap();
            let got = address(&place, argument).ok().map(|at| at.to_string());
            assert_eq!(got.as_deref(), expected, "{target} {argument}");
        }
        for other in ["/dev/tcpx", "/dev/null", "tcp/1/2"] {
            assert_eq!(link(Path::new(other)), None, "{other}");
        }
    }
}
