//! The qrexec agent: one control stream to the broker, one data stream a call, local clients on a socket.

pub(crate) mod account;
pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod local;
pub(crate) mod lookup;
mod prepare;
pub(crate) mod serve;
pub(crate) mod settings;
pub(crate) mod transport;
pub(crate) mod vchan;

#[cfg(test)]
mod tests;
