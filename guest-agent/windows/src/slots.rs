//! The slots that the host granted to a window: which are held, which pixels in each are old, and the copy of
//! those from the window's image. It decides nothing about when.

use casemate_window_wire::{SlotGrant, limits::MAX_SLOTS};

use crate::{damage::Damage, memory::WindowMemory};

/// Bytes of a pixel.
const PIXEL: u64 = 4;

/// A grant checked against the window memory: every write by it stays inside.
#[derive(Debug)]
pub(crate) struct Slots {
    generation: u32,
    width: u32,
    height: u32,
    stride: u32,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    offset: u64,
    held: bool,
    stale: Damage,
}

/// A grant that does not fit: the host and this program disagree about the memory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the host granted slots that are not in the window memory")]
pub(crate) struct BadGrant;

/// An image to copy from: rows of `stride` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) pixels: &'a [u8],
    pub(crate) stride: usize,
}

impl Slots {
    /// Takes a grant; `None` when the host had no room.
    ///
    /// # Errors
    /// [`BadGrant`].
    pub(crate) fn new(grant: &SlotGrant, memory: usize) -> Result<Option<Self>, BadGrant> {
        if grant.offsets.is_empty() {
            return Ok(None);
        }
        let row = u64::from(grant.width) * PIXEL;
        let stride = u64::from(grant.stride);
        if grant.width == 0
            || grant.height == 0
            || stride < row
            || grant.offsets.len() > usize::from(MAX_SLOTS)
        {
            return Err(BadGrant);
        }
        // Below 2^32 * 2^32, so it cannot overflow.
        let size = stride * u64::from(grant.height - 1) + row;
        let memory = u64::try_from(memory).map_err(|_| BadGrant)?;
        let inside = |offset: &u64| offset.checked_add(size).is_some_and(|end| end <= memory);
        if !grant.offsets.iter().all(inside) {
            return Err(BadGrant);
        }
        let slots = grant.offsets.iter().map(|&offset| Slot {
            offset,
            held: false,
            stale: Damage::whole(grant.width, grant.height),
        });
        Ok(Some(Self {
            generation: grant.generation,
            width: grant.width,
            height: grant.height,
            stride: grant.stride,
            slots: slots.collect(),
        }))
    }

    pub(crate) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// A slot that the host does not read.
    pub(crate) fn free(&self) -> Option<u8> {
        let index = self.slots.iter().position(|slot| !slot.held)?;
        u8::try_from(index).ok()
    }

    /// The host has finished with a slot; a release of an older grant means nothing.
    pub(crate) fn release(&mut self, generation: u32, slot: u8) {
        if generation == self.generation
            && let Some(slot) = self.slots.get_mut(usize::from(slot))
        {
            slot.held = false;
        }
    }

    /// Brings `slot` up to date and hands it to the host: `damage` is new in every slot, and what the slot missed
    /// while it was away is copied too. `false` when the copy failed, which leaves the slot with us.
    #[must_use]
    pub(crate) fn fill(
        &mut self,
        slot: u8,
        damage: &Damage,
        source: Source<'_>,
        memory: &mut WindowMemory,
    ) -> bool {
        for each in &mut self.slots {
            each.stale.merge(damage);
        }
        let stride = u64::from(self.stride);
        let Some(slot) = self.slots.get_mut(usize::from(slot)) else {
            return false;
        };
        let stale = slot.stale.take();
        let copied = copy(&stale, source, slot.offset, stride, memory).is_some();
        if copied {
            slot.held = true;
        } else {
            slot.stale = stale;
        }
        copied
    }
}

fn copy(
    damage: &Damage,
    source: Source<'_>,
    offset: u64,
    stride: u64,
    memory: &mut WindowMemory,
) -> Option<()> {
    for rect in damage.rects() {
        let start = usize::try_from(u64::from(rect.x) * PIXEL).ok()?;
        let len = usize::try_from(u64::from(rect.width) * PIXEL).ok()?;
        for y in rect.y..rect.y.checked_add(rect.height)? {
            let row = usize::try_from(y).ok()?.checked_mul(source.stride)?;
            let from = row.checked_add(start)?;
            let pixels = source.pixels.get(from..from.checked_add(len)?)?;
            let to = offset + stride * u64::from(y) + u64::from(rect.x) * PIXEL;
            memory
                .write(usize::try_from(to).ok()?, pixels)
                .then_some(())?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use casemate_window_wire::WindowId;

    use super::*;

    const LEN: usize = 4096;

    fn grant(width: u32, height: u32, stride: u32, offsets: &[u64]) -> SlotGrant {
        SlotGrant {
            id: WindowId(1),
            generation: 3,
            width,
            height,
            stride,
            offsets: offsets.to_vec(),
        }
    }

    fn memory() -> (tempfile::TempDir, File, WindowMemory) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory");
        std::fs::write(&path, [0; LEN]).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let memory = WindowMemory::map(&file, LEN).unwrap();
        (directory, file, memory)
    }

    #[test]
    fn grants_outside_the_memory_are_refused() {
        let bad = [
            grant(0, 4, 16, &[0]),
            grant(4, 0, 16, &[0]),
            grant(4, 4, 15, &[0]),
            grant(4, 4, 16, &[0, 4096 - 63]),
            grant(4, 4, 16, &[u64::MAX]),
            grant(u32::MAX, u32::MAX, u32::MAX, &[0]),
            grant(4, 4, 16, &[0; 5]),
        ];
        for grant in bad {
            assert_eq!(Slots::new(&grant, LEN).err(), Some(BadGrant), "{grant:?}");
        }
        assert!(Slots::new(&grant(4, 4, 16, &[4096 - 64]), LEN).is_ok());
        assert!(matches!(Slots::new(&grant(4, 4, 16, &[]), LEN), Ok(None)));
    }

    #[test]
    fn a_slot_that_was_away_gets_all_that_it_missed() {
        use std::os::unix::fs::FileExt as _;

        let (_directory, file, mut memory) = memory();
        let mut slots = Slots::new(&grant(2, 2, 16, &[0, 64]), LEN)
            .unwrap()
            .unwrap();
        let mut image = [1_u8; 16];
        let source = |image: &'static [u8]| Source {
            pixels: image,
            stride: 8,
        };
        let leak = |image: [u8; 16]| -> &'static [u8] { Box::leak(Box::new(image)) };
        let read = |offset: u64| {
            let mut row = [0; 8];
            file.read_exact_at(&mut row, offset).unwrap();
            row
        };

        let all = Damage::whole(2, 2);
        assert_eq!(slots.free(), Some(0));
        assert!(slots.fill(0, &all, source(leak(image)), &mut memory));
        assert_eq!(read(0), [1; 8]);
        assert_eq!(read(16), [1; 8], "second row at the stride of the grant");

        // One pixel changes: the other slot is still blank and must get everything.
        image[0..4].fill(7);
        let pixel = Damage::clipped(
            [smithay::utils::Rectangle::new((0, 0).into(), (1, 1).into())],
            (2, 2).into(),
        );
        assert_eq!(slots.free(), Some(1));
        assert!(slots.fill(1, &pixel, source(leak(image)), &mut memory));
        assert_eq!(read(64), [7, 7, 7, 7, 1, 1, 1, 1]);
        assert_eq!(read(80), [1; 8]);
        assert_eq!(slots.free(), None);

        slots.release(2, 0);
        assert_eq!(slots.free(), None, "release of an older grant");
        slots.release(3, 0);
        assert_eq!(slots.free(), Some(0));
        assert!(slots.fill(0, &Damage::default(), source(leak(image)), &mut memory));
        assert_eq!(read(0), [7, 7, 7, 7, 1, 1, 1, 1]);
    }

    #[test]
    fn a_short_image_is_an_error_not_a_panic() {
        let (_directory, _file, mut memory) = memory();
        let mut slots = Slots::new(&grant(2, 2, 8, &[0]), LEN).unwrap().unwrap();
        let source = Source {
            pixels: &[0; 8],
            stride: 8,
        };
        assert!(!slots.fill(0, &Damage::default(), source, &mut memory));
        assert_eq!(slots.free(), Some(0));
    }
}
