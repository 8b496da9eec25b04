//! `qubes.ResizeDisk`: makes the file system of a grown volume as large as the volume.

use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::boot::private;

/// Grows the file system of the volume that the argument names.
pub(crate) fn run(volume: &str) -> anyhow::Result<u8> {
    let device = device(volume)?;
    let status = Command::new("resize2fs")
        .arg(device)
        .status()
        .context("cannot run resize2fs")?;
    ensure!(status.success(), "resize2fs failed on {device} ({status})");
    Ok(0)
}

fn device(volume: &str) -> anyhow::Result<&'static str> {
    match volume {
        "private" => Ok(private::DEVICE),
        "root" => bail!("the root is a throw-away overlay; it is as large as its template"),
        _ => bail!("there is a 'private' volume and a 'root'; no other can be grown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_private_volume_grows() {
        assert_eq!(device("private").unwrap(), "/dev/vdb");
        for bad in [
            "",
            "root",
            "Private",
            "/dev/vda",
            "../private",
            "-f",
            "private ",
        ] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
