//! Every bound of the wire, each with the attack that it stops.

/// Largest body of a data frame in version 3 and later: one end cannot make the other buffer more.
pub const MAX_DATA_CHUNK: usize = 65_536;

/// Largest body of a data frame in version 2.
pub const MAX_DATA_CHUNK_V2: usize = 4096;

/// Longest service with its argument and the closing NUL: a VM cannot make the broker hold, judge and log more.
pub const MAX_SERVICE_CALL: usize = 65_000;

/// Longest service name, before `+`: it becomes a file name, which has at most this many bytes.
pub const MAX_SERVICE_NAME: usize = 255;

/// Largest body of a command frame: parameters, command and the closing NUL.
pub const MAX_COMMAND_FRAME: usize = 65_535;

/// Width of an ident field.
pub const IDENT_FIELD: usize = 32;

/// Width of target and source fields since version 3; names have at most one byte less.
pub const TARGET_FIELD: usize = 64;

/// Width of the target field of version 2.
pub const TARGET_FIELD_V2: usize = 32;

/// Width of the service field of version 2.
pub const SERVICE_FIELD_V2: usize = 64;

/// The vsock port of the control stream.
pub const CONTROL_PORT: u32 = 512;

/// The first vsock port of data streams.
pub const FIRST_DATA_PORT: u32 = 513;

/// Number of data ports, and so of calls that a VM can take part in at one time: stops exhaustion of the broker's
/// descriptors by a VM that never ends its calls.
pub const MAX_DATA_PORTS: u32 = 256;
