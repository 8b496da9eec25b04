//! The messages as types. Wire types, not domain types: the compositor checks them against its own state before use.

/// A window's number, chosen by the guest, unique among its live windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowId(pub u32);

/// What a guest may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// First and once: magic, then the oldest and newest version that the guest speaks.
    Hello {
        /// [`crate::limits::MAGIC`].
        magic: u32,
        /// Oldest version spoken.
        oldest: u16,
        /// Newest version spoken.
        newest: u16,
    },
    /// Creates a window, or replaces the state of one. Kind and parent are fixed at first use.
    Window(Window),
    /// Where a popup wants to be, relative to its parent. Required before a popup's first commit; again to move it.
    Position(Position),
    /// Asks for slots of this size; answered by [`ToGuest::Slots`]. Earlier slots of the window are void once answered.
    BufferRequest {
        /// The window.
        id: WindowId,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pixel format.
        format: Format,
        /// Number of slots, 1 to 4.
        count: u8,
    },
    /// Shows a slot. The first commit maps the window.
    Commit(Commit),
    /// Hides a window; it may be committed again.
    Unmap {
        /// The window.
        id: WindowId,
    },
    /// Ends a window and its popups; dialogs stay. A popup that ended so may still be destroyed by name.
    Destroy {
        /// The window.
        id: WindowId,
    },
    /// The pointer shape while the pointer is over this VM's content.
    Cursor {
        /// One of a fixed list; the host draws it.
        shape: CursorShape,
    },
    /// A wish that needs a person's act: honoured only for a serial of a recent press in this VM.
    Request {
        /// The window.
        id: WindowId,
        /// What is wished.
        what: Request,
        /// Serial of the [`ToGuest::PointerButton`] or [`ToGuest::Key`] that caused it.
        serial: u32,
    },
    /// Answer to [`ToGuest::Ping`].
    Pong {
        /// The ping's number.
        nonce: u32,
    },
}

/// Full state of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its number.
    pub id: WindowId,
    /// What it is.
    pub kind: WindowKind,
    /// Title, valid UTF-8, at most [`crate::limits::MAX_TITLE`] bytes. Sanitised by the host before it is drawn.
    pub title: String,
    /// Application id, at most [`crate::limits::MAX_APP_ID`] bytes.
    pub app_id: String,
    /// Smallest content size, 0 for none.
    pub min_size: (u32, u32),
    /// Largest content size, 0 for none.
    pub max_size: (u32, u32),
    /// Whether it asks for attention.
    pub attention: bool,
    /// Whether it wishes full screen: shown to the person, granted only by a host key.
    pub wants_fullscreen: bool,
}

/// What a window is. A popup or dialog names a live window of the same VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Free-standing.
    Toplevel,
    /// A toplevel that belongs to another.
    Dialog {
        /// Its owner.
        parent: WindowId,
    },
    /// Placed by the host relative to its parent, dismissed by a click elsewhere.
    Popup {
        /// A toplevel, dialog or popup.
        parent: WindowId,
        /// Whether it wants the keyboard and dismissal (an xdg grab).
        grab: bool,
    },
}

/// A popup's positioner, as in xdg-shell; the host solves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The popup.
    pub id: WindowId,
    /// Rectangle `(x, y, width, height)` in the parent's content.
    pub anchor_rect: (i32, i32, u32, u32),
    /// Size of the popup's content.
    pub size: (u32, u32),
    /// Which edge or corner of the rectangle.
    pub anchor: Anchor,
    /// Which way the popup extends from there.
    pub gravity: Gravity,
    /// xdg-shell constraint adjustment bits (slide x 1, slide y 2, flip x 4, flip y 8, resize x 16, resize y 32).
    pub constraints: u8,
    /// Offset from the anchor point.
    pub offset: (i32, i32),
    /// Token of an xdg reposition, 0 for the initial position; comes back in [`ToGuest::PopupPlaced`].
    pub token: u32,
}

/// Edge or corner of an anchor rectangle, numbered as in xdg-shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
#[repr(u8)]
pub enum Anchor {
    None = 0,
    Top = 1,
    Bottom = 2,
    Left = 3,
    Right = 4,
    TopLeft = 5,
    BottomLeft = 6,
    TopRight = 7,
    BottomRight = 8,
}

/// Direction in which a popup extends, numbered as [`Anchor`].
pub type Gravity = Anchor;

/// Pixel formats, 32 bits, little endian, alpha premultiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// Alpha ignored.
    Xrgb8888 = 0,
    /// With alpha; the host makes toplevels opaque.
    Argb8888 = 1,
}

/// A slot to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The window.
    pub id: WindowId,
    /// Index of a granted slot that the host does not hold.
    pub slot: u8,
    /// Generation of the grant ([`SlotGrant::generation`]).
    pub generation: u32,
    /// Serial of the newest configure that this content answers, 0 before the first.
    pub ack_serial: u32,
    /// What changed since the last commit, in buffer pixels, at most [`crate::limits::MAX_DAMAGE`]; empty = everything.
    pub damage: Vec<DamageRect>,
}

/// A damaged rectangle; clipped by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a rectangle")]
pub struct DamageRect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// Pointer shapes, after the cursor-shape protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
#[repr(u8)]
pub enum CursorShape {
    Default = 0,
    Text = 1,
    Pointer = 2,
    Wait = 3,
    Crosshair = 4,
    Move = 5,
    ResizeNs = 6,
    ResizeEw = 7,
    ResizeNesw = 8,
    ResizeNwse = 9,
    NotAllowed = 10,
    Hidden = 11,
}

/// Wishes of [`ToHost::Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
#[repr(u8)]
pub enum Request {
    Move = 0,
    Resize = 1,
    Minimize = 2,
    Maximize = 3,
    Activate = 4,
}

/// What the host says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Answer to hello.
    Welcome {
        /// The version that both will speak.
        version: u16,
        /// Length of the window memory in bytes.
        memory: u64,
    },
    /// The one virtual output that guests see.
    Output(OutputInfo),
    /// The keymap as xkb text (xkb_v1), for the guest's seat.
    Keymap {
        /// At most 100 KiB.
        text: String,
        /// Key repeat delay in milliseconds.
        repeat_delay: u32,
        /// Repeats per second.
        repeat_rate: u32,
    },
    /// A toplevel's or dialog's wanted state. Sent after its first [`ToHost::Window`] too.
    Configure(Configure),
    /// Where a popup came to lie, relative to its parent's content.
    PopupPlaced {
        /// The popup.
        id: WindowId,
        /// Serial to acknowledge in commits.
        serial: u32,
        /// Left edge.
        x: i32,
        /// Top edge.
        y: i32,
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// Token of the position that this answers.
        token: u32,
    },
    /// Slots in the window memory for a window.
    Slots(SlotGrant),
    /// The host no longer reads this slot.
    Release {
        /// The window.
        id: WindowId,
        /// Generation of its grant.
        generation: u32,
        /// The slot.
        slot: u8,
    },
    /// A good time to draw the next frame of this window.
    Frame {
        /// The window.
        id: WindowId,
        /// Milliseconds of the host's monotonic clock, wrapping.
        time_ms: u32,
    },
    /// The person wants it closed (or a popup dismissed).
    Close {
        /// The window.
        id: WindowId,
    },
    /// The window has the keyboard.
    KeyEnter {
        /// The window.
        id: WindowId,
        /// Linux input codes held now.
        held: Vec<u16>,
        /// xkb modifier masks: depressed, latched, locked, and the layout group.
        modifiers: [u32; 4],
    },
    /// A key of the focused window.
    Key {
        /// Linux input code.
        code: u16,
        /// Whether it went down.
        pressed: bool,
        /// Serial for requests.
        serial: u32,
        /// Milliseconds.
        time_ms: u32,
    },
    /// Modifiers changed: depressed, latched, locked, group.
    Modifiers {
        /// xkb masks.
        masks: [u32; 4],
    },
    /// This VM no longer has the keyboard; every held key counts as released.
    KeyLeave,
    /// The pointer entered or moved in a window; place in its content, 24.8 fixed point.
    PointerMotion {
        /// The window.
        id: WindowId,
        /// From the left edge, in 1/256 pixel.
        x: i32,
        /// From the top edge.
        y: i32,
        /// Milliseconds.
        time_ms: u32,
    },
    /// A button over the window that the last motion named.
    PointerButton {
        /// Linux input code.
        code: u16,
        /// Whether it went down.
        pressed: bool,
        /// Serial for requests.
        serial: u32,
        /// Milliseconds.
        time_ms: u32,
    },
    /// Scrolling.
    PointerAxis {
        /// Horizontal, 1/256 pixel.
        x: i32,
        /// Vertical.
        y: i32,
        /// Wheel clicks in 1/120, horizontal.
        x120: i32,
        /// Wheel clicks in 1/120, vertical.
        y120: i32,
        /// Milliseconds.
        time_ms: u32,
    },
    /// The pointer left this VM's windows.
    PointerLeave,
    /// Must be answered within 10 s, or the VM's windows are marked as not responding.
    Ping {
        /// Comes back in the pong.
        nonce: u32,
    },
}

/// The output as guests see it: no make, model or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputInfo {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Scale in 1/120.
    pub scale_120: u32,
    /// Refresh in millihertz.
    pub refresh_mhz: u32,
}

/// A toplevel's wanted state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The window.
    pub id: WindowId,
    /// To be acknowledged in commits.
    pub serial: u32,
    /// Content width, 0 = the client chooses.
    pub width: u32,
    /// Content height, 0 = the client chooses.
    pub height: u32,
    /// Whether it has the keyboard.
    pub activated: bool,
    /// Whether it is maximized.
    pub maximized: bool,
    /// Whether it fills the screen.
    pub fullscreen: bool,
    /// Whether nothing of it is visible, so that it may stop drawing.
    pub suspended: bool,
    /// Largest useful size.
    pub bounds: (u32, u32),
}

/// Slots of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotGrant {
    /// The window.
    pub id: WindowId,
    /// Counts grants of this window; names this one in commits and releases.
    pub generation: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from row to row.
    pub stride: u32,
    /// Offset of each slot in the window memory; empty = no room, ask again later or smaller.
    pub offsets: Vec<u64>,
}
