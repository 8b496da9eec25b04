//! Every bound of the wire, each with the attack that it stops.

/// `magic` of [`crate::ToHost::Hello`]: "CWF1".
pub const MAGIC: u32 = u32::from_le_bytes(*b"CWF1");

/// The version of this page.
pub const VERSION: u16 = 1;

/// Longest frame body from a guest: a guest cannot make the host buffer more.
pub const MAX_TO_HOST: usize = 4096;

/// Longest frame body to a guest; only the keymap comes near.
pub const MAX_TO_GUEST: usize = 128 * 1024;

/// Most live windows of one VM: stops exhaustion of host memory and of the person's patience.
pub const MAX_WINDOWS: usize = 256;

/// Largest width or height of a window or buffer in pixels: keeps every size product far inside `u64` and `i32`.
pub const MAX_EXTENT: u32 = 16_384;

/// Largest buffer in bytes.
pub const MAX_BUFFER: u64 = 256 * 1024 * 1024;

/// Most slots of one window.
pub const MAX_SLOTS: u8 = 4;

/// Most damage rectangles in a commit; a client with more sends their bounding box.
pub const MAX_DAMAGE: usize = 16;

/// Longest title in bytes: a title bar is no place for a novel, and shaping costs time.
pub const MAX_TITLE: usize = 256;

/// Longest application id in bytes.
pub const MAX_APP_ID: usize = 64;

/// Deepest chain of popups: stops recursion.
pub const MAX_POPUP_DEPTH: usize = 8;

/// Largest absolute value of an offset in a popup's position.
pub const MAX_OFFSET: i32 = 32_768;

/// Messages of one VM that are processed in a second; more are left in the socket, so that a flood starves only its sender.
pub const MAX_MESSAGES_PER_SECOND: u32 = 20_000;

/// Most keys reported as held in [`crate::ToGuest::KeyEnter`].
pub const MAX_HELD_KEYS: usize = 16;

/// Longest keymap text in bytes; far above any real one (64 KiB), and below [`MAX_TO_GUEST`].
pub const MAX_KEYMAP: usize = 100 * 1024;

/// Largest Linux input code (`KEY_MAX`).
pub const MAX_CODE: u16 = 767;
