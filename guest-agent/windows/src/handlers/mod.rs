//! What the Wayland library calls for apps' requests, one file per protocol family; the work is done elsewhere.

mod seat;
mod shell;
mod surface;

pub(crate) use surface::ClientState;
