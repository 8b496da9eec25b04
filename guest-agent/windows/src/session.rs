//! The session with the host: connecting, introducing every window, and forgetting it all when the host goes.
//! What the host says is handled in `host`.

use std::time::Instant;

use casemate_window_wire::{
    CursorShape, ToHost, Window as Announcement, WindowId, WindowKind,
    limits::{MAGIC, MAX_APP_ID, MAX_EXTENT, MAX_TITLE, MAX_WINDOWS, VERSION},
};
use smithay::{
    reexports::calloop::{Interest, Mode, PostAction, generic::Generic},
    utils::{Logical, Size},
    wayland::{
        compositor::with_states,
        shell::xdg::{SurfaceCachedState, ToplevelSurface, XdgToplevelSurfaceData},
    },
};

use crate::{
    agent::Agent,
    link::{Connection, Stage},
    popup,
    window::{Role, Window},
};

impl Agent {
    /// Ends a failed connection, and makes a new one when it is time.
    pub(crate) fn keep_connected(&mut self, now: Instant) {
        if let Some(mut connection) = self
            .connection
            .take_if(|connection| connection.failure.is_some())
        {
            if let Some(failure) = connection.failure.take() {
                tracing::warn!(%failure, "lost the host");
            }
            if let Some(source) = connection.source.take() {
                self.events.remove(source);
            }
            self.forget_host();
            self.backoff.failed(now);
        }
        if self.connection.is_none() && self.backoff.due(now) {
            match self.connect() {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    tracing::debug!(%error, "no host");
                    self.backoff.failed(now);
                }
            }
        }
    }

    fn connect(&mut self) -> anyhow::Result<Connection> {
        let mut connection = Connection::new(self.address.connect()?);
        let source = Generic::new(connection.duplicate()?, Interest::READ, Mode::Level);
        let token = self
            .events
            .insert_source(source, |_, _, agent: &mut Self| {
                agent.receive();
                // A failed stream stays readable; `keep_connected` removes the source before the next wait.
                Ok(PostAction::Continue)
            })
            .map_err(|error| error.error)?;
        connection.source = Some(token);
        connection.send(&ToHost::Hello {
            magic: MAGIC,
            oldest: VERSION,
            newest: VERSION,
        });
        Ok(connection)
    }

    /// Whether the host has welcomed us and listens.
    pub(crate) fn is_ready(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.stage == Stage::Ready && connection.failure.is_none()
        })
    }

    /// Sends to the host, if there is one.
    pub(crate) fn tell(&mut self, message: &ToHost) {
        if self.is_ready()
            && let Some(connection) = &mut self.connection
        {
            connection.send(message);
        }
    }

    /// Writes what is queued; waits for the socket when it is full.
    pub(crate) fn flush(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if connection.blocked || connection.failure.is_some() {
            return;
        }
        match connection.flush() {
            Ok(false) => {}
            Ok(true) => {
                let Ok(descriptor) = connection.duplicate() else {
                    return;
                };
                let source = Generic::new(descriptor, Interest::WRITE, Mode::Level);
                let waiting = self.events.insert_source(source, |_, _, agent: &mut Self| {
                    if let Some(connection) = &mut agent.connection {
                        connection.blocked = false;
                    }
                    Ok(PostAction::Remove)
                });
                connection.blocked = waiting.is_ok();
            }
            Err(failure) => connection.failure = Some(failure),
        }
    }

    /// The host is gone: its windows, focus and grabs are void. Apps keep running.
    fn forget_host(&mut self) {
        self.release_keyboard();
        self.leave_pointer();
        self.serials.clear();
        self.cursor = CursorShape::Default;
        for id in self.windows.ids().into_iter().rev() {
            self.dismiss(id);
        }
        for (_, window) in self.windows.iter_mut() {
            window.forget_host();
        }
    }

    /// Introduces windows that wait for it, owners first, and repeats what has changed.
    pub(crate) fn announce_windows(&mut self) {
        if !self.is_ready() {
            return;
        }
        for id in self.windows.ids() {
            self.announce(id, MAX_WINDOWS);
        }
    }

    /// Announces `id` after its owner; `depth` ends circles of owners, which only a broken app could make.
    fn announce(&mut self, id: WindowId, depth: usize) {
        let Some(window) = self.windows.get(id) else {
            return;
        };
        let known = window.host.announced.is_some();
        if !(known && window.renamed || !known && window.wants_configure) || depth == 0 {
            return;
        }
        let kind = match (&window.host.announced, &window.role) {
            (Some(announced), _) => announced.kind,
            (None, Role::Popup(popup)) => {
                if popup.dismissed {
                    return;
                }
                WindowKind::Popup {
                    parent: popup.parent,
                    grab: popup.grab,
                }
            }
            (None, Role::Toplevel(toplevel)) => self.toplevel_kind(toplevel),
        };
        if let WindowKind::Popup { parent, .. } | WindowKind::Dialog { parent } = kind
            && !known
        {
            self.announce(parent, depth - 1);
            let parent_known = self
                .windows
                .get(parent)
                .is_some_and(|parent| parent.host.announced.is_some());
            if !parent_known {
                // A popup of nothing cannot be shown; a dialog waits for its owner.
                self.dismiss(id);
                return;
            }
        }
        let live = self
            .windows
            .iter()
            .filter(|(_, window)| window.host.announced.is_some())
            .count();
        if !known && live >= MAX_WINDOWS {
            tracing::warn!(id = id.0, "too many windows; this one is not shown");
            return;
        }
        self.tell_window(id, kind);
    }

    fn tell_window(&mut self, id: WindowId, kind: WindowKind) {
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        window.renamed = false;
        let announcement = describe(id, kind, window);
        let mut messages = Vec::new();
        if window.host.announced.as_ref() != Some(&announcement) {
            messages.push(ToHost::Window(announcement.clone()));
            window.host.announced = Some(announcement);
        }
        if let Role::Popup(popup) = &window.role {
            let position = popup::position(id, popup);
            if window.host.position != Some(position) {
                messages.push(ToHost::Position(position));
                window.host.position = Some(position);
            }
        }
        for message in &messages {
            self.tell(message);
        }
    }

    /// Free-standing, or owned by another live window.
    fn toplevel_kind(&self, toplevel: &ToplevelSurface) -> WindowKind {
        let owner = toplevel
            .parent()
            .and_then(|surface| self.windows.of(&surface))
            .filter(|owner| {
                self.windows.get(*owner).is_some_and(|window| {
                    window.surface() != toplevel.wl_surface() && window.wants_configure
                })
            });
        match owner {
            Some(parent) => WindowKind::Dialog { parent },
            None => WindowKind::Toplevel,
        }
    }

    /// Removes a window that its app has destroyed.
    pub(crate) fn remove_window(&mut self, id: WindowId) {
        self.end_at_host(id);
        self.windows.remove(id);
    }

    /// Ends a window at the host, and before it all that depends on it. Popups are over with that; dialogs, which
    /// their apps still have, come back under new numbers.
    fn end_at_host(&mut self, id: WindowId) {
        for popup in self.windows.popups_of(id).into_iter().rev() {
            self.dismiss(popup);
        }
        for dialog in self.dialogs_of(id) {
            self.end_at_host(dialog);
            self.windows.renumber(dialog);
        }
        if self.keyboard_at == Some(id) {
            self.keyboard_at = None;
        }
        let Some(window) = self.windows.get_mut(id) else {
            return;
        };
        let known = window.host.announced.is_some();
        window.forget_host();
        if known {
            self.tell(&ToHost::Destroy { id });
        }
    }

    /// The windows that the host knows as dialogs of `owner`.
    fn dialogs_of(&self, owner: WindowId) -> Vec<WindowId> {
        let is_dialog = |window: &Window| {
            window.host.announced.as_ref().is_some_and(
                |known| matches!(known.kind, WindowKind::Dialog { parent } if parent == owner),
            )
        };
        let dialogs = self.windows.iter().filter(|(_, window)| is_dialog(window));
        dialogs.map(|(id, _)| id).collect()
    }
}

fn describe(id: WindowId, kind: WindowKind, window: &Window) -> Announcement {
    let (title, app_id) = match &window.role {
        Role::Popup(_) => (String::new(), String::new()),
        Role::Toplevel(toplevel) => names(toplevel),
    };
    let (min, max) = with_states(window.surface(), |states| {
        let mut guard = states.cached_state.get::<SurfaceCachedState>();
        let state = guard.current();
        (extent(state.min_size), extent(state.max_size))
    });
    // A maximum below the minimum means nothing, and the host would refuse it.
    let at_least = |max: u32, min: u32| if max < min { 0 } else { max };
    Announcement {
        id,
        kind,
        title,
        app_id,
        min_size: min,
        max_size: (at_least(max.0, min.0), at_least(max.1, min.1)),
        attention: window.attention,
        wants_fullscreen: window.wants_fullscreen,
    }
}

fn extent(size: Size<i32, Logical>) -> (u32, u32) {
    let clamp = |value: i32| u32::try_from(value).unwrap_or(0).min(MAX_EXTENT);
    (clamp(size.w), clamp(size.h))
}

fn names(toplevel: &ToplevelSurface) -> (String, String) {
    with_states(toplevel.wl_surface(), |states| {
        let Some(data) = states.data_map.get::<XdgToplevelSurfaceData>() else {
            return Default::default();
        };
        let Ok(data) = data.lock() else {
            return Default::default();
        };
        (
            cut(data.title.as_deref().unwrap_or_default(), MAX_TITLE),
            cut(data.app_id.as_deref().unwrap_or_default(), MAX_APP_ID),
        )
    })
}

/// The longest beginning of `text` of at most `max` bytes.
fn cut(text: &str, max: usize) -> String {
    text.get(..text.floor_char_boundary(max))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let cases = [
            ("", 4, ""),
            ("abc", 4, "abc"),
            ("abcdef", 4, "abcd"),
            ("abcß", 4, "abc"),
            ("ßß", 4, "ßß"),
            ("😀😀", 7, "😀"),
        ];
        for (text, max, expected) in cases {
            assert_eq!(cut(text, max), expected, "{text} to {max}");
        }
    }

    #[test]
    fn sizes_are_clamped() {
        assert_eq!(extent((0, 5).into()), (0, 5));
        assert_eq!(extent((i32::MAX, 0).into()), (MAX_EXTENT, 0));
    }
}
