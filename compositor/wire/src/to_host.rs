//! Codec of what a guest says. Message numbers 1 to 10.

use crate::{
    Anchor, Commit, CursorShape, DamageRect, Format, Position, Request, ToHost, Window, WindowId,
    WindowKind,
    bytes::{Reader, Writer},
    frame::{Body, Malformed},
    limits::{
        MAX_APP_ID, MAX_BUFFER, MAX_DAMAGE, MAX_EXTENT, MAX_OFFSET, MAX_SLOTS, MAX_TITLE,
        MAX_TO_HOST,
    },
};

const ANCHORS: [Anchor; 9] = [
    Anchor::None,
    Anchor::Top,
    Anchor::Bottom,
    Anchor::Left,
    Anchor::Right,
    Anchor::TopLeft,
    Anchor::BottomLeft,
    Anchor::TopRight,
    Anchor::BottomRight,
];
const FORMATS: [Format; 2] = [Format::Xrgb8888, Format::Argb8888];
const CURSORS: [CursorShape; 12] = [
    CursorShape::Default,
    CursorShape::Text,
    CursorShape::Pointer,
    CursorShape::Wait,
    CursorShape::Crosshair,
    CursorShape::Move,
    CursorShape::ResizeNs,
    CursorShape::ResizeEw,
    CursorShape::ResizeNesw,
    CursorShape::ResizeNwse,
    CursorShape::NotAllowed,
    CursorShape::Hidden,
];
const REQUESTS: [Request; 5] = [
    Request::Move,
    Request::Resize,
    Request::Minimize,
    Request::Maximize,
    Request::Activate,
];

/// All xdg-shell constraint adjustment bits.
const CONSTRAINTS: u8 = 0x3f;

fn at_most(value: u32, max: u32, what: &'static str) -> Result<(), Malformed> {
    if value <= max {
        Ok(())
    } else {
        Err(Malformed::Value(what))
    }
}

fn extent(value: u32, what: &'static str) -> Result<(), Malformed> {
    if value == 0 {
        return Err(Malformed::Value(what));
    }
    at_most(value, MAX_EXTENT, what)
}

fn offset(value: i32, what: &'static str) -> Result<(), Malformed> {
    at_most(value.unsigned_abs(), MAX_OFFSET.unsigned_abs(), what)
}

fn check_window(window: &Window) -> Result<(), Malformed> {
    if window.title.len() > MAX_TITLE {
        return Err(Malformed::Value("title length"));
    }
    if window.app_id.len() > MAX_APP_ID {
        return Err(Malformed::Value("application id length"));
    }
    for (min, max) in [
        (window.min_size.0, window.max_size.0),
        (window.min_size.1, window.max_size.1),
    ] {
        at_most(min, MAX_EXTENT, "minimum size")?;
        at_most(max, MAX_EXTENT, "maximum size")?;
        if max != 0 && min > max {
            return Err(Malformed::Value("minimum above maximum size"));
        }
    }
    Ok(())
}

fn check_position(position: &Position) -> Result<(), Malformed> {
    let (x, y, width, height) = position.anchor_rect;
    for value in [x, y, position.offset.0, position.offset.1] {
        offset(value, "popup offset")?;
    }
    at_most(width, MAX_EXTENT, "anchor width")?;
    at_most(height, MAX_EXTENT, "anchor height")?;
    extent(position.size.0, "popup width")?;
    extent(position.size.1, "popup height")?;
    if position.constraints & !CONSTRAINTS != 0 {
        return Err(Malformed::Value("constraint bits"));
    }
    Ok(())
}

impl Body for ToHost {
    const MAX: usize = MAX_TO_HOST;

    fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => 1,
            Self::Window(_) => 2,
            Self::Position(_) => 3,
            Self::BufferRequest { .. } => 4,
            Self::Commit(_) => 5,
            Self::Unmap { .. } => 6,
            Self::Destroy { .. } => 7,
            Self::Cursor { .. } => 8,
            Self::Request { .. } => 9,
            Self::Pong { .. } => 10,
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        match self {
            Self::Window(window) => check_window(window),
            Self::Position(position) => check_position(position),
            Self::BufferRequest {
                width,
                height,
                count,
                ..
            } => {
                extent(*width, "buffer width")?;
                extent(*height, "buffer height")?;
                if u64::from(*width) * u64::from(*height) * 4 > MAX_BUFFER {
                    return Err(Malformed::Value("buffer size"));
                }
                if *count == 0 || *count > MAX_SLOTS {
                    return Err(Malformed::Value("slot count"));
                }
                Ok(())
            }
            Self::Commit(commit) => {
                if commit.slot >= MAX_SLOTS {
                    return Err(Malformed::Value("slot"));
                }
                if commit.damage.len() > MAX_DAMAGE {
                    return Err(Malformed::Value("damage count"));
                }
                Ok(())
            }
            Self::Hello { .. }
            | Self::Unmap { .. }
            | Self::Destroy { .. }
            | Self::Cursor { .. }
            | Self::Request { .. }
            | Self::Pong { .. } => Ok(()),
        }
    }

    fn write(&self, w: &mut Writer<'_>) -> Result<(), Malformed> {
        match self {
            Self::Hello {
                magic,
                oldest,
                newest,
            } => {
                w.u32(*magic);
                w.u16(*oldest);
                w.u16(*newest);
            }
            Self::Window(window) => write_window(w, window)?,
            Self::Position(position) => write_position(w, position),
            Self::BufferRequest {
                id,
                width,
                height,
                format,
                count,
            } => {
                w.u32(id.0);
                w.pair((*width, *height));
                w.u8(*format as u8);
                w.u8(*count);
            }
            Self::Commit(commit) => {
                w.u32(commit.id.0);
                w.u8(commit.slot);
                w.u32(commit.generation);
                w.u32(commit.ack_serial);
                w.list(&commit.damage, |w, rect| {
                    w.pair((rect.x, rect.y));
                    w.pair((rect.width, rect.height));
                })?;
            }
            Self::Unmap { id } | Self::Destroy { id } => w.u32(id.0),
            Self::Cursor { shape } => w.u8(*shape as u8),
            Self::Request { id, what, serial } => {
                w.u32(id.0);
                w.u8(*what as u8);
                w.u32(*serial);
            }
            Self::Pong { nonce } => w.u32(*nonce),
        }
        Ok(())
    }

    fn read(kind: u16, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            1 => Self::Hello {
                magic: r.u32()?,
                oldest: r.u16()?,
                newest: r.u16()?,
            },
            2 => Self::Window(read_window(r)?),
            3 => Self::Position(read_position(r)?),
            4 => Self::BufferRequest {
                id: WindowId(r.u32()?),
                width: r.u32()?,
                height: r.u32()?,
                format: r.choice(&FORMATS, "format")?,
                count: r.u8()?,
            },
            5 => Self::Commit(Commit {
                id: WindowId(r.u32()?),
                slot: r.u8()?,
                generation: r.u32()?,
                ack_serial: r.u32()?,
                damage: r.list(MAX_DAMAGE, |r| {
                    Ok(DamageRect {
                        x: r.u32()?,
                        y: r.u32()?,
                        width: r.u32()?,
                        height: r.u32()?,
                    })
                })?,
            }),
            6 => Self::Unmap {
                id: WindowId(r.u32()?),
            },
            7 => Self::Destroy {
                id: WindowId(r.u32()?),
            },
            8 => Self::Cursor {
                shape: r.choice(&CURSORS, "cursor shape")?,
            },
            9 => Self::Request {
                id: WindowId(r.u32()?),
                what: r.choice(&REQUESTS, "request")?,
                serial: r.u32()?,
            },
            10 => Self::Pong { nonce: r.u32()? },
            other => return Err(Malformed::Unknown(other)),
        })
    }
}

fn write_window(w: &mut Writer<'_>, window: &Window) -> Result<(), Malformed> {
    w.u32(window.id.0);
    let (kind, parent, grab) = match window.kind {
        WindowKind::Toplevel => (0, 0, false),
        WindowKind::Dialog { parent } => (1, parent.0, false),
        WindowKind::Popup { parent, grab } => (2, parent.0, grab),
    };
    w.u8(kind);
    w.u32(parent);
    w.bool(grab);
    w.text(&window.title)?;
    w.text(&window.app_id)?;
    w.pair(window.min_size);
    w.pair(window.max_size);
    w.bool(window.attention);
    w.bool(window.wants_fullscreen);
    Ok(())
}

fn read_window(r: &mut Reader<'_>) -> Result<Window, Malformed> {
    let id = WindowId(r.u32()?);
    let kind = match (r.u8()?, WindowId(r.u32()?), r.bool()?) {
        (0, WindowId(0), false) => WindowKind::Toplevel,
        (1, parent, false) => WindowKind::Dialog { parent },
        (2, parent, grab) => WindowKind::Popup { parent, grab },
        _ => return Err(Malformed::Value("window kind")),
    };
    Ok(Window {
        id,
        kind,
        title: r.text(MAX_TITLE)?,
        app_id: r.text(MAX_APP_ID)?,
        min_size: r.pair()?,
        max_size: r.pair()?,
        attention: r.bool()?,
        wants_fullscreen: r.bool()?,
    })
}

fn write_position(w: &mut Writer<'_>, position: &Position) {
    let (x, y, width, height) = position.anchor_rect;
    w.u32(position.id.0);
    w.i32(x);
    w.i32(y);
    w.pair((width, height));
    w.pair(position.size);
    w.u8(position.anchor as u8);
    w.u8(position.gravity as u8);
    w.u8(position.constraints);
    w.i32(position.offset.0);
    w.i32(position.offset.1);
    w.u32(position.token);
}

fn read_position(r: &mut Reader<'_>) -> Result<Position, Malformed> {
    Ok(Position {
        id: WindowId(r.u32()?),
        anchor_rect: (r.i32()?, r.i32()?, r.u32()?, r.u32()?),
        size: r.pair()?,
        anchor: r.choice(&ANCHORS, "anchor")?,
        gravity: r.choice(&ANCHORS, "gravity")?,
        constraints: r.u8()?,
        offset: (r.i32()?, r.i32()?),
        token: r.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_lists() {
        fn check<T: Copy>(all: &[T], number: impl Fn(T) -> u8) {
            for (index, &each) in all.iter().enumerate() {
                assert_eq!(usize::from(number(each)), index);
            }
        }
        check(&ANCHORS, |each| each as u8);
        check(&FORMATS, |each| each as u8);
        check(&CURSORS, |each| each as u8);
        check(&REQUESTS, |each| each as u8);
    }
}
