//! Popups: what the app asks for as the host understands it, where the host put them, and their end.
//! The host computes the place; the grab is the host's too.

use casemate_window_wire::{
    Anchor, Position, ToHost, WindowId,
    limits::{MAX_EXTENT, MAX_OFFSET, MAX_POPUP_DEPTH},
};
use smithay::{
    reexports::wayland_protocols::xdg::shell::server::xdg_positioner::{
        Anchor as XdgAnchor, Gravity as XdgGravity,
    },
    utils::{Logical, Rectangle},
    wayland::shell::xdg::{PopupSurface, PositionerState},
};

use crate::{
    agent::Agent,
    window::{Popup, Role, Window},
};

impl Agent {
    /// An app has made a popup; it is announced with its first commit.
    pub(crate) fn add_popup(&mut self, surface: PopupSurface, positioner: PositionerState) {
        let parent = surface
            .get_parent_surface()
            .and_then(|parent| self.windows.of(&parent));
        let Some(parent) = parent.filter(|parent| self.windows.depth(*parent) < MAX_POPUP_DEPTH)
        else {
            surface.send_popup_done();
            return;
        };
        self.windows.insert(Window::new(Role::Popup(Popup {
            surface,
            parent,
            grab: false,
            positioner,
            reposition: None,
            place: (0, 0).into(),
            dismissed: false,
        })));
    }

    /// The app wants its popup elsewhere.
    pub(crate) fn reposition(&mut self, id: WindowId, positioner: PositionerState, token: u32) {
        if let Some(window) = self.windows.get_mut(id)
            && let Some(popup) = window.popup_mut()
        {
            popup.positioner = positioner;
            popup.reposition = Some(token);
            window.renamed = true;
        }
    }

    /// The host has placed a popup.
    pub(crate) fn popup_placed(
        &mut self,
        id: WindowId,
        serial: u32,
        place: Rectangle<i32, Logical>,
        token: u32,
    ) {
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        let Some(popup) = window.popup_mut() else {
            return;
        };
        if popup.dismissed {
            return;
        }
        popup.place = place.loc;
        let positioner = popup.positioner;
        popup.surface.with_pending_state(|state| {
            state.geometry = place;
            state.positioner = positioner;
        });
        let asked = popup.reposition.take_if(|asked| *asked == token);
        let sent = match asked {
            Some(token) if popup.surface.is_initial_configure_sent() => {
                Some(popup.surface.send_repositioned(token))
            }
            // Only a reactive popup may be moved unasked; another stays as its app knows it.
            _ => popup.surface.send_configure().ok(),
        };
        if let Some(sent) = sent {
            window.unanswered.push((sent, serial));
        }
    }

    /// Ends a popup for its app and for the host; a window that is no popup stays.
    pub(crate) fn dismiss(&mut self, id: WindowId) {
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        let Some(popup) = window.popup_mut() else {
            return;
        };
        if !popup.dismissed {
            popup.dismissed = true;
            popup.surface.send_popup_done();
        }
        let known = window.host.announced.is_some();
        window.forget_host();
        if self.keyboard_at == Some(id) {
            self.keyboard_at = None;
        }
        if known {
            self.tell(&ToHost::Destroy { id });
        }
    }

    /// The person clicked elsewhere: the popup ends, and those on top of it before it.
    pub(crate) fn dismiss_tree(&mut self, id: WindowId) {
        for popup in self.windows.popups_of(id).into_iter().rev() {
            self.dismiss(popup);
        }
        self.dismiss(id);
    }
}

/// What the app's positioner says, within what the host accepts.
pub(crate) fn position(id: WindowId, popup: &Popup) -> Position {
    let positioner = &popup.positioner;
    let offset = |value: i32| value.clamp(-MAX_OFFSET, MAX_OFFSET);
    let extent = |value: i32| u32::try_from(value).unwrap_or(0).min(MAX_EXTENT);
    let anchor = positioner.anchor_rect;
    Position {
        id,
        anchor_rect: (
            offset(anchor.loc.x),
            offset(anchor.loc.y),
            extent(anchor.size.w),
            extent(anchor.size.h),
        ),
        size: (
            extent(positioner.rect_size.w).max(1),
            extent(positioner.rect_size.h).max(1),
        ),
        anchor: edge(positioner.anchor_edges),
        gravity: direction(positioner.gravity),
        // The bits are those of xdg-shell, six of them.
        constraints: u8::try_from(positioner.constraint_adjustment.bits() & 0x3f).unwrap_or(0),
        offset: (offset(positioner.offset.x), offset(positioner.offset.y)),
        token: popup.reposition.unwrap_or(0),
    }
}

fn edge(anchor: XdgAnchor) -> Anchor {
    match anchor {
        XdgAnchor::Top => Anchor::Top,
        XdgAnchor::Bottom => Anchor::Bottom,
        XdgAnchor::Left => Anchor::Left,
        XdgAnchor::Right => Anchor::Right,
        XdgAnchor::TopLeft => Anchor::TopLeft,
        XdgAnchor::BottomLeft => Anchor::BottomLeft,
        XdgAnchor::TopRight => Anchor::TopRight,
        XdgAnchor::BottomRight => Anchor::BottomRight,
        _ => Anchor::None,
    }
}

fn direction(gravity: XdgGravity) -> Anchor {
    match gravity {
        XdgGravity::Top => Anchor::Top,
        XdgGravity::Bottom => Anchor::Bottom,
        XdgGravity::Left => Anchor::Left,
        XdgGravity::Right => Anchor::Right,
        XdgGravity::TopLeft => Anchor::TopLeft,
        XdgGravity::BottomLeft => Anchor::BottomLeft,
        XdgGravity::TopRight => Anchor::TopRight,
        XdgGravity::BottomRight => Anchor::BottomRight,
        _ => Anchor::None,
    }
}
