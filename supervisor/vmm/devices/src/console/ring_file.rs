//! A sink that is a file of bounded size: [`casemate_vmm_control::ring_log`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_vmm_control::ring_log::{HEADER_LEN, RingLog};
use tracing::warn;

use super::ConsoleSink;
use crate::lock;

/// The console log of one VM. Two devices may share it.
#[derive(Debug)]
pub struct RingFile {
    file: File,
    log: Mutex<RingLog>,
    failed: AtomicBool,
}

impl RingFile {
    /// Goes on with the log in `file` (open for reading and writing), or begins one where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(file: File) -> io::Result<Self> {
        let mut header = [0; HEADER_LEN];
        let log = match file.read_exact_at(&mut header, 0) {
            Ok(()) => RingLog::decode(&header).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => RingLog::new(),
            Err(error) => return Err(error),
        };
        file.write_all_at(&log.encode(), 0)?;
        Ok(Self {
            file,
            log: Mutex::new(log),
            failed: AtomicBool::new(false),
        })
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut log = lock(&self.log);
        let mut next = *log;
        for (offset, part) in next.append(bytes) {
            self.file.write_all_at(part, offset)?;
        }
        // Last, so that a reader never sees a position whose bytes are not there.
        self.file.write_all_at(&next.encode(), 0)?;
        *log = next;
        Ok(())
    }
}

impl ConsoleSink for RingFile {
    fn write(&self, bytes: &[u8]) {
        if let Err(error) = self.append(bytes)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            warn!(%error, "console log; output is lost from here on");
        }
    }
}
