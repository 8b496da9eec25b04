//! What the broker and one VM's agent have said to each other: a control stream and the calls that came of it.
//!
//! No I/O and no clock. Whoever owns a [`Session`] feeds it what the agent sent, gives it the orders of calls, sends away
//! what waits to be sent, and makes or takes back the offers of data streams that it speaks of.
//!
//! ```text
//!   resting ──begin──▶ silent ──HELLO──▶ open
//!      ▲                  │                │
//!      └────────end───────┴── a frame that is none, or answers that nobody takes
//! ```
//!
//! With a control stream end all its calls, as far as the broker knows: their ports are free, and whoever waits for one
//! sees that. What an agent says on one stream never answers or ends what began on another.
#![deny(missing_docs)]

pub mod limits;
mod ports;
mod rate;
mod session;

pub use rate::Bucket;
pub use session::{Broken, Caller, Failed, Heard, Port, Session, Streams, Transport};

/// The domain number of the admin side in frames.
pub const ADMIN_DOMAIN: u32 = 0;
