//! `qubes.OpenURL`: the address of a page comes on stdin and is opened by this VM's browser.

use std::{
    io::{self, BufRead, Read},
    process::Stdio,
};

use anyhow::{Context, ensure};

use super::{handler, session};

/// Longest address in bytes; what browsers and servers take.
pub(crate) const MAX_URL: u64 = 8192;

/// Reads an address and opens it.
pub(crate) fn run() -> anyhow::Result<u8> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock().take(MAX_URL + 1);
    input
        .read_until(b'\n', &mut line)
        .context("no address came")?;
    let url = check(&line)?.to_owned();
    session::wait();
    let mut command = handler::for_url(&url)?;
    let program = command.get_program().display().to_string();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// An address that names a page and nothing that a browser would do for its own user only: no `file:`, no
/// `javascript:`. Other characters than printable ASCII must be escaped, as the standard says.
pub(crate) fn check(line: &[u8]) -> anyhow::Result<&str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    ensure!(
        line.len() as u64 <= MAX_URL,
        "the address is longer than {MAX_URL} bytes"
    );
    ensure!(
        line.iter().all(u8::is_ascii_graphic),
        "the address has characters that must be escaped"
    );
    let url = str::from_utf8(line).context("the address is no text")?;
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    ensure!(
        host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')),
        "only addresses with http:// or https:// and a host are opened"
    );
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "https://example.org",
            "http://example.org/a?b=c&d=%20#e\n",
            "https://[::1]:8080/",
        ] {
            assert_eq!(check(good.as_bytes()).unwrap(), good.trim_end());
        }
        let long = format!("https://{}", "a".repeat(8192));
        for bad in [
            "",
            "\n",
            "https://",
            "https:///etc/passwd",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "ftp://example.org",
            "HTTPS://example.org",
            "--new-window",
            " https://example.org",
            "https://example.org/a b",
            "https://example.org/\x1b[2J",
            "https://ex\u{e4}mple.org",
            "https://a\nhttps://b",
            &long,
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
