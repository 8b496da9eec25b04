//! The windows of this VM's apps: what each is, and how far the host knows it. No pixels, no protocol traffic.

use std::{collections::BTreeMap, time::Instant};

use casemate_window_wire::{Configure, Position, Window as Announcement, WindowId};
use smithay::{
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::{Logical, Point, Serial},
    wayland::shell::xdg::{PopupSurface, PositionerState, ToplevelSurface},
};

use crate::{canvas::Canvas, slots::Slots};

/// One window.
pub(crate) struct Window {
    pub(crate) role: Role,
    /// The app has committed it without content, and so wants to be told its size; until it hides it.
    pub(crate) wants_configure: bool,
    /// The app has given it content.
    pub(crate) mapped: bool,
    /// The content changed since it was last given to the host.
    pub(crate) dirty: bool,
    /// The title or another part of the announcement may have changed.
    pub(crate) renamed: bool,
    pub(crate) attention: bool,
    pub(crate) wants_fullscreen: bool,
    /// What the host last wished, kept for an app that hides and shows its window again.
    pub(crate) configure: Option<Configure>,
    /// Configures that the app was sent and has not answered: its serial, the host's serial.
    pub(crate) unanswered: Vec<(Serial, u32)>,
    /// The host's serial that the app answered, in force from its next commit.
    pub(crate) answered: u32,
    /// The host's serial that the content in force answers.
    pub(crate) in_force: u32,
    pub(crate) canvas: Option<Canvas>,
    /// When frame callbacks are sent, should the host say nothing before.
    pub(crate) frame_due: Option<Instant>,
    pub(crate) host: HostSide,
}

/// What a window is to its app.
pub(crate) enum Role {
    Toplevel(ToplevelSurface),
    Popup(Popup),
}

/// A popup.
pub(crate) struct Popup {
    pub(crate) surface: PopupSurface,
    pub(crate) parent: WindowId,
    pub(crate) grab: bool,
    pub(crate) positioner: PositionerState,
    /// Token of a reposition that the app waits for.
    pub(crate) reposition: Option<u32>,
    /// Where the host put it, in the parent's content.
    pub(crate) place: Point<i32, Logical>,
    /// The app was told that it is gone; it only remains to be destroyed.
    pub(crate) dismissed: bool,
}

/// What the host of this connection knows of a window. Forgotten when the connection ends.
#[derive(Default)]
pub(crate) struct HostSide {
    pub(crate) announced: Option<Announcement>,
    pub(crate) position: Option<Position>,
    pub(crate) configured: bool,
    /// Size of the slots that were asked for and not yet granted.
    pub(crate) requested: Option<(u32, u32)>,
    /// The host had no room; ask again then.
    pub(crate) ask_again: Option<Instant>,
    pub(crate) slots: Option<Slots>,
    /// The host's serial of the last commit.
    pub(crate) committed: u32,
    /// At least one commit, not hidden since.
    pub(crate) shown: bool,
    /// A commit for which the host has not yet called for the next frame.
    pub(crate) frame_owed: bool,
}

impl Window {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            wants_configure: false,
            mapped: false,
            dirty: false,
            renamed: true,
            attention: false,
            wants_fullscreen: false,
            configure: None,
            unanswered: Vec::new(),
            answered: 0,
            in_force: 0,
            canvas: None,
            frame_due: None,
            host: HostSide::default(),
        }
    }

    pub(crate) fn surface(&self) -> &WlSurface {
        match &self.role {
            Role::Toplevel(toplevel) => toplevel.wl_surface(),
            Role::Popup(popup) => popup.surface.wl_surface(),
        }
    }

    pub(crate) fn popup(&self) -> Option<&Popup> {
        match &self.role {
            Role::Popup(popup) => Some(popup),
            Role::Toplevel(_) => None,
        }
    }

    pub(crate) fn popup_mut(&mut self) -> Option<&mut Popup> {
        match &mut self.role {
            Role::Popup(popup) => Some(popup),
            Role::Toplevel(_) => None,
        }
    }

    /// The app answered configure `serial`.
    pub(crate) fn answer(&mut self, serial: Serial) {
        if let Some((_, host)) = self
            .unanswered
            .iter()
            .rev()
            .find(|(sent, _)| *sent <= serial)
        {
            self.answered = *host;
        }
        self.unanswered.retain(|(sent, _)| *sent > serial);
    }

    /// The connection is gone: the next host knows nothing.
    pub(crate) fn forget_host(&mut self) {
        self.host = HostSide::default();
        self.unanswered.clear();
        self.answered = 0;
        self.in_force = 0;
        self.dirty = true;
        self.renamed = true;
    }
}

/// All windows, by number. Numbers are never used twice.
#[derive(Default)]
pub(crate) struct Windows {
    all: BTreeMap<WindowId, Window>,
    last: u32,
}

impl Windows {
    pub(crate) fn insert(&mut self, window: Window) -> WindowId {
        self.last = self.last.wrapping_add(1);
        let id = WindowId(self.last);
        self.all.insert(id, window);
        id
    }

    pub(crate) fn remove(&mut self, id: WindowId) -> Option<Window> {
        self.all.remove(&id)
    }

    pub(crate) fn get(&self, id: WindowId) -> Option<&Window> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WindowId) -> Option<&mut Window> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (WindowId, &Window)> {
        self.all.iter().map(|(&id, window)| (id, window))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (WindowId, &mut Window)> {
        self.all.iter_mut().map(|(&id, window)| (id, window))
    }

    /// The numbers, oldest first, for loops that change windows.
    pub(crate) fn ids(&self) -> Vec<WindowId> {
        self.all.keys().copied().collect()
    }

    /// The window whose main surface this is.
    pub(crate) fn of(&self, surface: &WlSurface) -> Option<WindowId> {
        let (id, _) = self
            .iter()
            .find(|(_, window)| window.surface() == surface)?;
        Some(id)
    }

    /// A window's number changes: the host let go of the old one with its parent.
    pub(crate) fn renumber(&mut self, id: WindowId) {
        if let Some(window) = self.remove(id) {
            let new = self.insert(window);
            for window in self.all.values_mut() {
                if let Some(popup) = window.popup_mut()
                    && popup.parent == id
                {
                    popup.parent = new;
                }
            }
        }
    }

    /// The popups of `id` and theirs, the outermost last.
    pub(crate) fn popups_of(&self, id: WindowId) -> Vec<WindowId> {
        let mut found: Vec<WindowId> = Vec::new();
        // A popup is made after its parent, so one pass in order of numbers would do but for renumbered parents.
        loop {
            let before = found.len();
            for (popup_id, window) in self.iter() {
                if let Some(popup) = window.popup()
                    && (popup.parent == id || found.contains(&popup.parent))
                    && !found.contains(&popup_id)
                {
                    found.push(popup_id);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// How many popups `id` is nested in, itself included.
    pub(crate) fn depth(&self, id: WindowId) -> usize {
        let parents = std::iter::successors(Some(id), |id| {
            self.get(*id)?.popup().map(|popup| popup.parent)
        });
        parents
            .take(self.all.len())
            .filter(|id| self.get(*id).is_some_and(|window| window.popup().is_some()))
            .count()
    }

    /// Where a window's content lies in the space of its toplevel's content.
    pub(crate) fn origin(&self, id: WindowId) -> Point<i32, Logical> {
        let mut origin = Point::default();
        let mut at = Some(id);
        for _ in 0..self.all.len() {
            let Some(popup) = at.and_then(|id| self.get(id)).and_then(Window::popup) else {
                break;
            };
            origin += popup.place;
            at = Some(popup.parent);
        }
        origin
    }
}
