//! Codec of what the host says. Message numbers 0x81 to 0x92.

use crate::{
    Configure, OutputInfo, SlotGrant, ToGuest, WindowId,
    bytes::{Reader, Writer},
    frame::{Body, Malformed},
    limits::{MAX_CODE, MAX_HELD_KEYS, MAX_KEYMAP, MAX_SLOTS, MAX_TO_GUEST},
};

fn check_code(code: u16) -> Result<(), Malformed> {
    if code > MAX_CODE {
        return Err(Malformed::Value("input code"));
    }
    Ok(())
}

impl Body for ToGuest {
    const MAX: usize = MAX_TO_GUEST;

    fn kind(&self) -> u16 {
        match self {
            Self::Welcome { .. } => 0x81,
            Self::Output(_) => 0x82,
            Self::Keymap { .. } => 0x83,
            Self::Configure(_) => 0x84,
            Self::PopupPlaced { .. } => 0x85,
            Self::Slots(_) => 0x86,
            Self::Release { .. } => 0x87,
            Self::Frame { .. } => 0x88,
            Self::Close { .. } => 0x89,
            Self::KeyEnter { .. } => 0x8a,
            Self::Key { .. } => 0x8b,
            Self::Modifiers { .. } => 0x8c,
            Self::KeyLeave => 0x8d,
            Self::PointerMotion { .. } => 0x8e,
            Self::PointerButton { .. } => 0x8f,
            Self::PointerAxis { .. } => 0x90,
            Self::PointerLeave => 0x91,
            Self::Ping { .. } => 0x92,
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        match self {
            Self::Keymap { text, .. } if text.len() > MAX_KEYMAP => {
                Err(Malformed::Value("keymap length"))
            }
            Self::Slots(grant) if grant.offsets.len() > usize::from(MAX_SLOTS) => {
                Err(Malformed::Value("slot count"))
            }
            Self::KeyEnter { held, .. } if held.len() > MAX_HELD_KEYS => {
                Err(Malformed::Value("held keys"))
            }
            Self::KeyEnter { held, .. } => held.iter().copied().try_for_each(check_code),
            Self::Key { code, .. } | Self::PointerButton { code, .. } => check_code(*code),
            _ => Ok(()),
        }
    }

    fn write(&self, w: &mut Writer<'_>) -> Result<(), Malformed> {
        match self {
            Self::Welcome { version, memory } => {
                w.u16(*version);
                w.u64(*memory);
            }
            Self::Output(output) => {
                w.pair((output.width, output.height));
                w.pair((output.scale_120, output.refresh_mhz));
            }
            Self::Keymap {
                text,
                repeat_delay,
                repeat_rate,
            } => {
                w.long_text(text)?;
                w.pair((*repeat_delay, *repeat_rate));
            }
            Self::Configure(configure) => write_configure(w, configure),
            Self::PopupPlaced {
                id,
                serial,
                x,
                y,
                width,
                height,
                token,
            } => {
                w.pair((id.0, *serial));
                w.i32(*x);
                w.i32(*y);
                w.pair((*width, *height));
                w.u32(*token);
            }
            Self::Slots(grant) => {
                w.pair((grant.id.0, grant.generation));
                w.pair((grant.width, grant.height));
                w.u32(grant.stride);
                w.list(&grant.offsets, |w, &offset| w.u64(offset))?;
            }
            Self::Release {
                id,
                generation,
                slot,
            } => {
                w.pair((id.0, *generation));
                w.u8(*slot);
            }
            Self::Frame { id, time_ms } => w.pair((id.0, *time_ms)),
            Self::Close { id } => w.u32(id.0),
            Self::KeyEnter {
                id,
                held,
                modifiers,
            } => {
                w.u32(id.0);
                w.list(held, |w, &code| w.u16(code))?;
                write_masks(w, modifiers);
            }
            Self::Key {
                code,
                pressed,
                serial,
                time_ms,
            }
            | Self::PointerButton {
                code,
                pressed,
                serial,
                time_ms,
            } => {
                w.u16(*code);
                w.bool(*pressed);
                w.pair((*serial, *time_ms));
            }
            Self::Modifiers { masks } => write_masks(w, masks),
            Self::PointerMotion { id, x, y, time_ms } => {
                w.u32(id.0);
                w.i32(*x);
                w.i32(*y);
                w.u32(*time_ms);
            }
            Self::PointerAxis {
                x,
                y,
                x120,
                y120,
                time_ms,
            } => {
                for value in [x, y, x120, y120] {
                    w.i32(*value);
                }
                w.u32(*time_ms);
            }
            Self::KeyLeave | Self::PointerLeave => {}
            Self::Ping { nonce } => w.u32(*nonce),
        }
        Ok(())
    }

    fn read(kind: u16, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            0x81 => Self::Welcome {
                version: r.u16()?,
                memory: r.u64()?,
            },
            0x82 => Self::Output(OutputInfo {
                width: r.u32()?,
                height: r.u32()?,
                scale_120: r.u32()?,
                refresh_mhz: r.u32()?,
            }),
            0x83 => Self::Keymap {
                text: r.long_text(MAX_KEYMAP)?,
                repeat_delay: r.u32()?,
                repeat_rate: r.u32()?,
            },
            0x84 => Self::Configure(read_configure(r)?),
            0x85 => Self::PopupPlaced {
                id: WindowId(r.u32()?),
                serial: r.u32()?,
                x: r.i32()?,
                y: r.i32()?,
                width: r.u32()?,
                height: r.u32()?,
                token: r.u32()?,
            },
            0x86 => Self::Slots(SlotGrant {
                id: WindowId(r.u32()?),
                generation: r.u32()?,
                width: r.u32()?,
                height: r.u32()?,
                stride: r.u32()?,
                offsets: r.list(usize::from(MAX_SLOTS), Reader::u64)?,
            }),
            0x87 => Self::Release {
                id: WindowId(r.u32()?),
                generation: r.u32()?,
                slot: r.u8()?,
            },
            0x88 => Self::Frame {
                id: WindowId(r.u32()?),
                time_ms: r.u32()?,
            },
            0x89 => Self::Close {
                id: WindowId(r.u32()?),
            },
            0x8a => Self::KeyEnter {
                id: WindowId(r.u32()?),
                held: r.list(MAX_HELD_KEYS, Reader::u16)?,
                modifiers: read_masks(r)?,
            },
            0x8b => Self::Key {
                code: r.u16()?,
                pressed: r.bool()?,
                serial: r.u32()?,
                time_ms: r.u32()?,
            },
            0x8c => Self::Modifiers {
                masks: read_masks(r)?,
            },
            0x8d => Self::KeyLeave,
            0x8e => Self::PointerMotion {
                id: WindowId(r.u32()?),
                x: r.i32()?,
                y: r.i32()?,
                time_ms: r.u32()?,
            },
            0x8f => Self::PointerButton {
                code: r.u16()?,
                pressed: r.bool()?,
                serial: r.u32()?,
                time_ms: r.u32()?,
            },
            0x90 => Self::PointerAxis {
                x: r.i32()?,
                y: r.i32()?,
                x120: r.i32()?,
                y120: r.i32()?,
                time_ms: r.u32()?,
            },
            0x91 => Self::PointerLeave,
            0x92 => Self::Ping { nonce: r.u32()? },
            other => return Err(Malformed::Unknown(other)),
        })
    }
}

fn write_masks(w: &mut Writer<'_>, masks: &[u32; 4]) {
    for &mask in masks {
        w.u32(mask);
    }
}

fn read_masks(r: &mut Reader<'_>) -> Result<[u32; 4], Malformed> {
    Ok([r.u32()?, r.u32()?, r.u32()?, r.u32()?])
}

fn write_configure(w: &mut Writer<'_>, configure: &Configure) {
    w.pair((configure.id.0, configure.serial));
    w.pair((configure.width, configure.height));
    for state in [
        configure.activated,
        configure.maximized,
        configure.fullscreen,
        configure.suspended,
    ] {
        w.bool(state);
    }
    w.pair(configure.bounds);
}

fn read_configure(r: &mut Reader<'_>) -> Result<Configure, Malformed> {
    Ok(Configure {
        id: WindowId(r.u32()?),
        serial: r.u32()?,
        width: r.u32()?,
        height: r.u32()?,
        activated: r.bool()?,
        maximized: r.bool()?,
        fullscreen: r.bool()?,
        suspended: r.bool()?,
        bounds: r.pair()?,
    })
}
