//! What guests may do to the model. Everything is checked here; a refusal ends the guest's window session.

use casemate_window_wire::{Position, ToGuest, Window as Declared, WindowId, WindowKind, limits};

use super::{Configured, Phase, Role, Violation, Window, Windows};
use crate::{
    geometry::{Point, Size},
    scene::sanitise,
    words::{Time, VmKey, WindowKey},
};

impl Windows {
    /// A window's full state: creates or updates it.
    pub(crate) fn declare(&mut self, vm: VmKey, declared: &Declared) -> Result<(), Violation> {
        let key = WindowKey::new(vm, declared.id);
        let role = match declared.kind {
            WindowKind::Toplevel => Role::Toplevel { owner: None },
            WindowKind::Dialog { parent } => Role::Toplevel {
                owner: Some(parent),
            },
            WindowKind::Popup { parent, grab } => Role::Popup { parent, grab },
        };
        let created = !self.windows.contains_key(&key);
        if created {
            self.create(key, role)?;
        }
        let focused = self.focus == Some(key);
        let Some(window) = self.windows.get_mut(&key) else {
            return Err(Violation::UnknownWindow);
        };
        if window.role != role {
            return Err(Violation::KindChanged);
        }
        window.title = sanitise::title(&declared.title);
        window.min = Size::from_wire(declared.min_size);
        window.max = Size::from_wire(declared.max_size);
        window.attention = declared.attention && !focused;
        if created && matches!(role, Role::Toplevel { .. }) {
            self.configure(key, Size::default());
        }
        Ok(())
    }

    fn create(&mut self, key: WindowKey, role: Role) -> Result<(), Violation> {
        if self.windows_of(key.vm).count() >= limits::MAX_WINDOWS {
            return Err(Violation::TooManyWindows);
        }
        match role {
            Role::Toplevel { owner: None } => {}
            Role::Toplevel { owner: Some(owner) } => {
                match self.windows.get(&WindowKey::new(key.vm, owner)) {
                    Some(Window {
                        role: Role::Toplevel { .. },
                        ..
                    }) => {}
                    _ => return Err(Violation::BadParent),
                }
            }
            Role::Popup { parent, .. } => {
                let parent = WindowKey::new(key.vm, parent);
                if !self.windows.contains_key(&parent) {
                    return Err(Violation::BadParent);
                }
                if self.depth(parent) >= limits::MAX_POPUP_DEPTH {
                    return Err(Violation::TooDeep);
                }
            }
        }
        self.ghosts.remove(&key);
        self.windows.insert(
            key,
            Window {
                role,
                phase: Phase::New,
                title: String::new(),
                min: Size::default(),
                max: Size::default(),
                attention: false,
                size: Size::default(),
                origin: Point::default(),
                placed: None,
                restore: None,
                anchor: None,
                configured: Configured::default(),
            },
        );
        Ok(())
    }

    /// Where a popup wants to be.
    pub(crate) fn position(&mut self, vm: VmKey, position: &Position) -> Result<(), Violation> {
        let key = WindowKey::new(vm, position.id);
        if self.ghosts.contains(&key) {
            return Ok(());
        }
        let Some(window) = self.windows.get_mut(&key) else {
            return Err(Violation::UnknownWindow);
        };
        if !matches!(window.role, Role::Popup { .. }) {
            return Err(Violation::NotPopup);
        }
        window.placed = Some((*position, Size::from_wire(position.size)));
        self.solve_popup(key);
        let serial = self.serial();
        let Some(window) = self.windows.get_mut(&key) else {
            return Err(Violation::UnknownWindow);
        };
        window.configured.serial = serial;
        let (width, height) = window.placed.map_or((1, 1), |(_, size)| size.to_wire());
        let (x, y) = (window.origin.x, window.origin.y);
        self.outgoing.push((
            vm,
            ToGuest::PopupPlaced {
                id: position.id,
                serial,
                x,
                y,
                width,
                height,
                token: position.token,
            },
        ));
        Ok(())
    }

    /// Whether a commit for this window is in order; `false` for one that is to be ignored.
    pub(crate) fn may_commit(&self, key: WindowKey, ack: u32) -> Result<bool, Violation> {
        let Some(window) = self.windows.get(&key) else {
            return if self.ghosts.contains(&key) {
                Ok(false)
            } else {
                Err(Violation::UnknownWindow)
            };
        };
        if ack > window.configured.serial {
            return Err(Violation::BadSerial);
        }
        if let Role::Popup { parent, .. } = window.role {
            let parent = self.windows.get(&WindowKey::new(key.vm, parent));
            if window.placed.is_none() {
                return Err(Violation::Unplaced);
            }
            if parent.is_none_or(|parent| parent.phase != Phase::Mapped) {
                return Ok(false);
            }
        }
        Ok(window.phase != Phase::Dismissed)
    }

    /// Whether a message that names this window may simply be dropped.
    pub(crate) fn tolerate(&self, key: WindowKey) -> Result<(), Violation> {
        if self.windows.contains_key(&key) || self.ghosts.contains(&key) {
            Ok(())
        } else {
            Err(Violation::UnknownWindow)
        }
    }

    /// New content of this size is to be shown. The caller has asked [`Windows::may_commit`] when the message came.
    pub(crate) fn commit(&mut self, key: WindowKey, size: Size, ack: u32, now: Time) {
        if self.may_commit(key, ack) != Ok(true) {
            return;
        }
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        let resized = std::mem::replace(&mut window.size, size) != size;
        window.configured.acked = window.configured.acked.max(ack);
        let mapped = std::mem::replace(&mut window.phase, Phase::Mapped) == Phase::New;
        match window.role {
            Role::Toplevel { owner } => {
                if mapped {
                    self.place_toplevel(key, owner);
                    self.insert_toplevel(key, now);
                    self.shrink_to_fit(key);
                } else if resized {
                    self.after_resize(key);
                }
                self.continue_resize(key);
            }
            Role::Popup { .. } => {
                if mapped {
                    self.popups.push(key);
                    self.solve_popup(key);
                }
            }
        }
    }

    /// Hides a window. Its popups are hidden too.
    pub(crate) fn unmap(&mut self, key: WindowKey) -> Result<(), Violation> {
        if self.ghosts.contains(&key) {
            return Ok(());
        }
        if !self.windows.contains_key(&key) {
            return Err(Violation::UnknownWindow);
        }
        for child in self.popups_below(key) {
            self.hide(child);
        }
        self.hide(key);
        self.refocus();
        Ok(())
    }

    /// Ends a window and its popups; answers every window that ended. Dialogs stay, as in xdg-shell.
    pub(crate) fn destroy(&mut self, key: WindowKey) -> Result<Vec<WindowKey>, Violation> {
        if self.ghosts.remove(&key) {
            return Ok(Vec::new());
        }
        if !self.windows.contains_key(&key) {
            return Err(Violation::UnknownWindow);
        }
        let mut gone = self.children_below(key);
        for &child in &gone {
            // Bounded: at most as many as windows were alive, and the oldest number gives way.
            if self.ghosts.len() >= limits::MAX_WINDOWS * self.vms.len().max(1) {
                self.ghosts.pop_first();
            }
            self.ghosts.insert(child);
        }
        gone.push(key);
        for &each in &gone {
            self.forget(each);
        }
        self.refocus();
        Ok(gone)
    }

    /// Asks a toplevel for a size (0 x 0: its own choice) and tells it its state.
    pub(super) fn configure(&mut self, key: WindowKey, size: Size) {
        let serial = self.serial();
        let bounds = self.bounds();
        let activated = self.focus == Some(key);
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        window.configured.serial = serial;
        window.configured.size = size;
        window.configured.activated = activated;
        window.configured.wanted = None;
        let (width, height) = size.to_wire();
        let configure = casemate_window_wire::Configure {
            id: key.id,
            serial,
            width,
            height,
            activated,
            maximized: window.restore.is_some(),
            fullscreen: false,
            suspended: false,
            bounds: bounds.to_wire(),
        };
        self.outgoing.push((key.vm, ToGuest::Configure(configure)));
    }

    /// Popup levels from a window up to its toplevel.
    fn depth(&self, mut key: WindowKey) -> usize {
        let mut depth = 0;
        while let Some(Window {
            role: Role::Popup { parent, .. },
            ..
        }) = self.windows.get(&key)
        {
            depth += 1;
            key = WindowKey::new(key.vm, *parent);
        }
        depth
    }

    /// Every popup that hangs on a window, nearest first.
    fn children_below(&self, key: WindowKey) -> Vec<WindowKey> {
        let mut found: Vec<WindowKey> = Vec::new();
        let mut frontier: Vec<WindowId> = vec![key.id];
        while let Some(parent) = frontier.pop() {
            for child in self.windows_of(key.vm) {
                let hangs = self.windows.get(&child).is_some_and(
                    |window| matches!(window.role, Role::Popup { parent: on, .. } if on == parent),
                );
                if hangs {
                    found.push(child);
                    frontier.push(child.id);
                }
            }
        }
        found
    }
}
