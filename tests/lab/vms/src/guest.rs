//! What `lab-vms-guest` says, and how it is told what to do.

/// First line of the guest's init: how far a boot is measured. The guest's own clock follows, in seconds.
pub const UP: &str = "lab-vms-guest: up";

/// Every line of the guest that beats, with a number behind it. It never sleeps between them.
pub const BEAT: &str = "lab-vms-guest: beat";

/// A work begins: its name, and how many operations it will be.
pub const BEGINS: &str = "lab-vms-guest: begins";

/// Word of the kernel's command line: the guest is silent for a moment before and after each work, so that the lab can
/// count what is done in between.
pub const PAUSE: &str = "lab.pause";

/// Word of the kernel's command line that names the works, all when it is missing: names with commas between.
pub const ONLY: &str = "lab.only=";

/// Name of a work and its figure: nanoseconds of the guest's clock per operation.
pub const TOOK: &str = "lab-vms-guest: took";

/// All works have been done.
pub const DONE: &str = "lab-vms-guest: done";

/// A work cannot be done; its name and the reason follow.
pub const FAILED: &str = "lab-vms-guest: failed";

/// How many processors the guest's kernel runs on follows; then it powers off.
pub const CPUS: &str = "lab-vms-guest: processors";

/// Word of the kernel's command line that says what to do after [`UP`].
pub const WORK: &str = "lab.work=";

/// Port of the host that takes what is sent over vsock, and answers one byte at the end of [`STREAM`].
pub const PORT: u32 = 512;

/// Length of one send over vsock.
pub const SEND: usize = 64 << 10;

/// Sends of one stream.
pub const SENDS: u32 = 256;

/// Bytes of all sends together.
pub const STREAM: usize = SENDS as usize * SEND;

/// Length of one frame.
pub const FRAME: usize = 1500;

/// Frames that are sent and waited for.
pub const FRAMES: u32 = 10_000;

/// Type of a frame: one that no protocol uses ("local experimental").
pub const KIND: [u8; 2] = [0x88, 0xb5];

/// Type of the frame that is sent last, and of its answer.
pub const LAST: [u8; 2] = [0x88, 0xb6];
