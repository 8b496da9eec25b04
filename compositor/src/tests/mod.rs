//! The whole compositor but its loop and devices, with fake guests that speak the real wire over real sockets and
//! real shared memory.

mod fixture;
mod hostile;
mod input;
mod look;
mod oracle;
mod prompts;
mod windows;
