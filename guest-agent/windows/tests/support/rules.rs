//! How the stand-in answers: as strict as the wire says, and at once.

use casemate_window_wire::{
    Commit, Configure, Position, SlotGrant, ToGuest, Window, WindowId, WindowKind,
};

use super::{Host, MEMORY, Picture, Seen};

impl Host {
    pub(super) fn window(&mut self, window: Window) {
        let id = window.id;
        if let WindowKind::Dialog { parent } | WindowKind::Popup { parent, .. } = window.kind {
            assert!(self.windows.contains_key(&parent), "no parent for {id:?}");
        }
        if let Some(seen) = self.windows.get_mut(&id) {
            assert_eq!(seen.window.kind, window.kind, "a kind never changes");
            seen.window = window;
            return;
        }
        let toplevel = !matches!(window.kind, WindowKind::Popup { .. });
        self.windows.insert(
            id,
            Seen {
                window,
                position: None,
                grant: None,
                commits: Vec::new(),
                shown: false,
                picture: Picture::default(),
                serial: 0,
            },
        );
        if toplevel {
            let (width, height) = self.wished;
            self.configure(id, width, height, false);
        }
    }

    pub fn configure(&mut self, id: WindowId, width: u32, height: u32, activated: bool) -> u32 {
        let serial = self.serial();
        self.known(id).serial = serial;
        self.send(&ToGuest::Configure(Configure {
            id,
            serial,
            width,
            height,
            activated,
            maximized: false,
            fullscreen: false,
            suspended: false,
            bounds: (1920, 1056),
        }));
        serial
    }

    /// Puts a popup at its anchor point, unconstrained: enough to see that the numbers go both ways.
    pub(super) fn position(&mut self, position: Position) {
        let serial = self.serial();
        let seen = self.known(position.id);
        assert!(matches!(seen.window.kind, WindowKind::Popup { .. }));
        seen.position = Some(position);
        seen.serial = serial;
        let (x, y, width, height) = position.anchor_rect;
        self.send(&ToGuest::PopupPlaced {
            id: position.id,
            serial,
            x: x + i32::try_from(width).unwrap() + position.offset.0,
            y: y + i32::try_from(height).unwrap() + position.offset.1,
            width: position.size.0,
            height: position.size.1,
            token: position.token,
        });
    }

    pub(super) fn grant(&mut self, id: WindowId, width: u32, height: u32, count: u8) {
        // Rows longer than they need be, to see that the stride is respected.
        let stride = width * 4 + 64;
        let size = (u64::from(stride) * u64::from(height)).next_multiple_of(4096);
        if self.next_offset + size * u64::from(count) > MEMORY {
            // A real host reclaims; here old grants are far behind by then.
            self.next_offset = 0;
        }
        let offsets = (0..count)
            .map(|slot| self.next_offset + size * u64::from(slot))
            .collect();
        self.next_offset += size * u64::from(count);
        let seen = self.known(id);
        let generation = seen.grant.as_ref().map_or(1, |old| old.generation + 1);
        let grant = SlotGrant {
            id,
            generation,
            width,
            height,
            stride,
            offsets,
        };
        seen.grant = Some(grant.clone());
        self.send(&ToGuest::Slots(grant));
    }

    pub(super) fn commit(&mut self, commit: Commit) {
        let id = commit.id;
        let grant = self
            .known(id)
            .grant
            .clone()
            .expect("a commit before a grant");
        assert_eq!(commit.generation, grant.generation, "slots of an old grant");
        assert!(usize::from(commit.slot) < grant.offsets.len());
        for rect in &commit.damage {
            assert!(rect.x + rect.width <= grant.width && rect.y + rect.height <= grant.height);
        }
        let picture = self.read_slot(&grant, commit.slot);
        let seen = self.known(id);
        if let WindowKind::Popup { .. } = seen.window.kind {
            assert!(seen.position.is_some(), "a popup without position");
        }
        // What is outside of the damage must be as it was: a host copies only the damage.
        if seen.shown && seen.picture.same_size(&picture) && !commit.damage.is_empty() {
            assert_eq!(
                seen.picture.differs_outside(&picture, &commit.damage),
                None,
                "a change that the commit does not name"
            );
        }
        seen.picture = picture;
        seen.shown = true;
        let (slot, generation) = (commit.slot, commit.generation);
        seen.commits.push(commit);
        if self.releases {
            self.send(&ToGuest::Release {
                id,
                generation,
                slot,
            });
        }
        if self.frames {
            let time_ms = self.serial();
            self.send(&ToGuest::Frame { id, time_ms });
        }
    }
}
