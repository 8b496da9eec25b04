//! The pixels' side of one window: its grant of slots, and the commit that waits for the next frame.

use casemate_window_wire::{Commit, DamageRect, Format, limits};

use super::{
    End,
    memory::WindowMemory,
    slots::{Allocator, Extent, stride},
};
use crate::{
    geometry::{Point, Rect, Size},
    scene::Content,
};

/// Slots of one size that a guest may draw into.
#[derive(Debug)]
struct Grant {
    generation: u32,
    shape: Shape,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    size: Size,
    stride: u32,
    format: Format,
}

#[derive(Debug)]
struct Slot {
    /// `None` while an orphaned commit still reads it.
    extent: Option<Extent>,
    /// Committed and not yet released.
    held: bool,
}

/// A commit that waits for the next frame. A later one takes its place.
#[derive(Debug)]
struct Pending {
    generation: u32,
    slot: u8,
    offset: u64,
    shape: Shape,
    ack: u32,
    /// `None` for everything.
    damage: Option<Vec<Rect>>,
    /// The slot of a grant that was replaced meanwhile.
    orphan: Option<Extent>,
}

/// A slot that the guest may use again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) generation: u32,
    pub(super) slot: u8,
}

/// One window's pixels.
#[derive(Debug, Default)]
pub(super) struct Surface {
    generation: u32,
    grant: Option<Grant>,
    pending: Option<Pending>,
    /// Generation of the newest commit in the private copy; the first commit of another is copied whole.
    shown: u32,
    /// A commit was skipped: the private copy lacks its damage.
    stale: bool,
}

/// What the guest is granted: generation, stride and offsets (none when there is no room).
pub(super) type Granted = (u32, u32, Vec<u64>);

impl Surface {
    /// Replaces the grant.
    pub(super) fn request(
        &mut self,
        allocator: &mut Allocator,
        (width, height): (u32, u32),
        format: Format,
        count: u8,
    ) -> Granted {
        self.drop_grant(allocator);
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let stride = stride(width);
        let bytes = u64::from(stride) * u64::from(height);
        let extents = if bytes > limits::MAX_BUFFER + limits::MAX_BUFFER / 16 {
            None
        } else {
            allocator.allocate_all(count, bytes)
        };
        let extents = extents.unwrap_or_default();
        let offsets = extents.iter().map(Extent::offset).collect();
        self.grant = Some(Grant {
            generation: self.generation,
            shape: Shape {
                size: Size::from_wire((width, height)),
                stride,
                format,
            },
            slots: extents
                .into_iter()
                .map(|extent| Slot {
                    extent: Some(extent),
                    held: false,
                })
                .collect(),
        });
        (self.generation, stride, offsets)
    }

    fn drop_grant(&mut self, allocator: &mut Allocator) {
        let Some(grant) = self.grant.take() else {
            return;
        };
        for (index, slot) in (0u8..).zip(grant.slots) {
            let Some(extent) = slot.extent else {
                continue;
            };
            match &mut self.pending {
                // The waiting commit still reads this one; it goes when that frame is drawn.
                Some(pending)
                    if pending.generation == grant.generation && pending.slot == index =>
                {
                    pending.orphan = Some(extent);
                }
                _ => allocator.free(extent),
            }
        }
    }

    /// Takes a commit in; answers the slot of an earlier one that it replaces.
    pub(super) fn commit(
        &mut self,
        allocator: &mut Allocator,
        commit: &Commit,
    ) -> Result<Option<Released>, End> {
        if commit.generation < self.generation {
            // Drawn before the guest knew of the new grant: those slots are void. The first commit of the new grant
            // is copied whole.
            return Ok(None);
        }
        let Some(grant) = self
            .grant
            .as_mut()
            .filter(|grant| grant.generation == commit.generation)
        else {
            return Err(End::Protocol("a commit without a grant of slots"));
        };
        let Some(slot) = grant.slots.get_mut(usize::from(commit.slot)) else {
            return Err(End::Protocol("a slot that was never granted"));
        };
        if slot.held {
            return Err(End::Protocol("a slot that the host still holds"));
        }
        let Some(extent) = &slot.extent else {
            return Err(End::Protocol("a slot that was never granted"));
        };
        slot.held = true;
        let mut next = Pending {
            generation: commit.generation,
            slot: commit.slot,
            offset: extent.offset(),
            shape: grant.shape,
            ack: commit.ack_serial,
            damage: clipped(&commit.damage, grant.shape.size),
            orphan: None,
        };
        let earlier = self.pending.take();
        if let Some(earlier) = &earlier {
            next.damage = match (&earlier.damage, next.damage) {
                (Some(before), Some(now)) if earlier.generation == next.generation => {
                    Some(merged(before, now))
                }
                _ => None,
            };
            next.ack = next.ack.max(earlier.ack);
        }
        self.pending = Some(next);
        Ok(earlier.and_then(|earlier| self.release(allocator, earlier)))
    }

    /// Gives the slot of a commit back, to the guest or, if its grant has gone, to the allocator.
    fn release(&mut self, allocator: &mut Allocator, pending: Pending) -> Option<Released> {
        if let Some(orphan) = pending.orphan {
            allocator.free(orphan);
            return None;
        }
        let grant = self
            .grant
            .as_mut()
            .filter(|grant| grant.generation == pending.generation)?;
        grant.slots.get_mut(usize::from(pending.slot))?.held = false;
        Some(Released {
            generation: pending.generation,
            slot: pending.slot,
        })
    }

    /// Acknowledged serial and size of the waiting commit.
    pub(super) fn pending(&self) -> Option<(u32, Size)> {
        let pending = self.pending.as_ref()?;
        Some((pending.ack, pending.shape.size))
    }

    /// Lets a waiting commit go without showing it.
    pub(super) fn skip(&mut self, allocator: &mut Allocator) -> Option<Released> {
        self.stale = true;
        let pending = self.pending.take()?;
        self.release(allocator, pending)
    }

    /// Copies what the waiting commit damaged, once, into the host's own copy; answers the bytes copied.
    pub(super) fn copy(
        &mut self,
        allocator: &mut Allocator,
        memory: &WindowMemory,
        content: &mut Option<Content>,
    ) -> (u64, Option<Released>) {
        let Some(pending) = self.pending.take() else {
            return (0, None);
        };
        let Shape {
            size,
            stride,
            format,
        } = pending.shape;
        let fresh = !content
            .as_ref()
            .is_some_and(|content| content.matches(size, format));
        let target = if fresh {
            content.insert(Content::new(size, format))
        } else {
            content.get_or_insert_with(|| Content::new(size, format))
        };
        let everything = vec![Rect::new(Point::default(), size)];
        let damage = match pending.damage.as_ref() {
            Some(damage) if !fresh && !self.stale && self.shown == pending.generation => damage,
            _ => &everything,
        };
        self.stale = false;
        self.shown = pending.generation;
        let mut copied = 0;
        target.update(damage, |pixels| {
            for rect in damage {
                copied += copy_rect(memory, pending.offset, stride, *rect, size, pixels);
            }
        });
        (copied, self.release(allocator, pending))
    }

    /// The window is gone: every slot is free again.
    pub(super) fn end(mut self, allocator: &mut Allocator) {
        self.drop_grant(allocator);
        if let Some(orphan) = self.pending.take().and_then(|pending| pending.orphan) {
            allocator.free(orphan);
        }
    }
}

/// Copies one rectangle that lies inside `size`, row by row.
fn copy_rect(
    memory: &WindowMemory,
    slot: u64,
    stride: u32,
    rect: Rect,
    size: Size,
    pixels: &mut [u8],
) -> u64 {
    let number = |value: i32| u64::try_from(value).unwrap_or(0);
    let row_bytes = number(rect.w) * 4;
    let mut copied = 0;
    for y in rect.y..rect.bottom() {
        let from = slot + number(y) * u64::from(stride) + number(rect.x) * 4;
        let to = (number(y) * number(size.w) + number(rect.x)) * 4;
        let range = usize::try_from(to)
            .ok()
            .zip(usize::try_from(to + row_bytes).ok());
        let Some(row) = range.and_then(|(start, end)| pixels.get_mut(start..end)) else {
            break;
        };
        if !memory.copy_to(from, row) {
            break;
        }
        copied += row_bytes;
    }
    copied
}

/// Damage cut to the buffer; `None` for everything.
fn clipped(damage: &[DamageRect], size: Size) -> Option<Vec<Rect>> {
    if damage.is_empty() {
        return None;
    }
    let whole = Rect::new(Point::default(), size);
    let rects = damage.iter().filter_map(|rect| {
        let origin = Size::from_wire((rect.x, rect.y));
        let extent = Size::from_wire((rect.width, rect.height));
        Rect::new(Point::new(origin.w, origin.h), extent).intersection(whole)
    });
    Some(rects.collect())
}

/// Both lists, or the box around them when they are too many.
fn merged(before: &[Rect], now: Vec<Rect>) -> Vec<Rect> {
    let mut all = now;
    all.extend_from_slice(before);
    if all.len() > limits::MAX_DAMAGE {
        let hull = all.iter().copied().reduce(Rect::union);
        return hull.into_iter().collect();
    }
    all
}
