//! `casemate logs`

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek, Write, stdout},
    os::fd::OwnedFd,
    time::Duration,
};

use casemate_vmm_control::ring_log::{HEADER_LEN, RING_LEN, RingLog};

use crate::{failure::Failure, session, terminal::Filter};

/// How often a log that is followed is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Print what a VM wrote to its console since its last start; only the last MiB is kept
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    name: String,
    /// Go on printing what is added
    #[arg(long, short)]
    follow: bool,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let log = session::supervisor().await?.log(&self.name).await?;
        let mut reader = Reader {
            file: OwnedFd::from(log).into(),
            printed: 0,
        };
        let mut filter = stdout().is_terminal().then(Filter::default);
        loop {
            let fresh = reader.fresh().map_err(|error| {
                Failure::failed(format!("cannot read the log of '{}': {error}", self.name))
            })?;
            let mut out = stdout().lock();
            match &mut filter {
                Some(filter) => out.write_all(filter.push(&fresh).as_bytes())?,
                None => out.write_all(&fresh)?,
            }
            out.flush()?;
            drop(out);
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

struct Reader {
    file: File,
    /// Bytes of the stream that were printed.
    printed: u64,
}

impl Reader {
    /// What was added since the last time, as far as the ring still has it.
    fn fresh(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        let most = u64::try_from(HEADER_LEN + RING_LEN).map_err(io::Error::other)?;
        (&self.file).take(most).read_to_end(&mut bytes)?;
        // A vmm that has not written its header yet has printed nothing.
        let Ok(log) = RingLog::decode(&bytes) else {
            return Ok(Vec::new());
        };
        if log.position() < self.printed {
            // The VM was started again, with an empty log.
            self.printed = 0;
        }
        let added = log.position() - self.printed;
        self.printed = log.position();
        let kept = RingLog::read_all(&bytes).map_err(io::Error::other)?;
        let skip = kept
            .len()
            .saturating_sub(usize::try_from(added).unwrap_or(usize::MAX));
        Ok(kept.get(skip..).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_followed_log_shows_each_byte_once() {
        let file = tempfile::tempfile().unwrap();
        let writer = file.try_clone().unwrap();
        let mut reader = Reader { file, printed: 0 };
        assert!(reader.fresh().unwrap().is_empty());
        let mut log = RingLog::new();
        for text in ["one\n", "two\n", "", "three"] {
            for (offset, bytes) in log.append(text.as_bytes()) {
                writer.write_all_at(bytes, offset).unwrap();
            }
            writer.write_all_at(&log.encode(), 0).unwrap();
            assert_eq!(reader.fresh().unwrap(), text.as_bytes());
        }
        writer.set_len(0).unwrap();
        writer.write_all_at(&RingLog::new().encode(), 0).unwrap();
        assert!(reader.fresh().unwrap().is_empty());
    }
}
