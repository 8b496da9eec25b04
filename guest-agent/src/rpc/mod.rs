//! The qrexec agent: one control stream to the broker, one data stream a call, local clients on a socket.

pub(crate) mod account;
mod config;
pub(crate) mod control;
mod ends;
mod identity;
mod linger;
pub(crate) mod local;
mod login;
mod lookup;
mod prepare;
mod relay;
mod serve;
pub(crate) mod settings;
mod signals;
pub(crate) mod tcp;
pub(crate) mod transport;
pub(crate) mod vchan;

#[cfg(test)]
mod tests;
