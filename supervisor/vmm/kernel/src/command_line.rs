//! The kernel command line.

/// Longest command line with its NUL; Linux on x86 reads no more.
pub const COMMAND_LINE_MAX: usize = 2048;

/// A line that a kernel would read as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommandLine {
    /// Linux would cut it off.
    #[error("the kernel command line has {0} bytes, at most 2047 are read: shorten it")]
    TooLong(usize),
    /// Linux would stop at it.
    #[error(
        "the kernel command line has a NUL at byte {0}, where the kernel would stop to read: take it out"
    )]
    Nul(usize),
}

/// A command line that the kernel reads whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(Vec<u8>);

impl CommandLine {
    /// Checks a line.
    ///
    /// # Errors
    /// [`InvalidCommandLine`] when it is too long or has a NUL in it.
    pub fn new(line: &str) -> Result<Self, InvalidCommandLine> {
        if let Some(at) = line.bytes().position(|byte| byte == 0) {
            return Err(InvalidCommandLine::Nul(at));
        }
        if line.len() >= COMMAND_LINE_MAX {
            return Err(InvalidCommandLine::TooLong(line.len()));
        }
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(0);
        Ok(Self(bytes))
    }

    /// The line with its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
