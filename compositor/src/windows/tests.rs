//! The model's invariants, checked after every step of random histories.

use super::{Phase, Role, Windows, frame};
use crate::{geometry::Point, theme, words::WindowKey};

impl Windows {
    /// Panics when the model contradicts itself.
    pub(crate) fn verify(&self) {
        for (key, window) in &self.windows {
            assert!(self.vms.contains_key(&key.vm), "a window without VM");
            let mapped = window.phase == Phase::Mapped;
            match window.role {
                Role::Toplevel { .. } => {
                    let times = self.stack.iter().filter(|other| *other == key).count();
                    assert_eq!(times, usize::from(mapped), "stack and phase disagree");
                }
                Role::Popup { parent, .. } => {
                    let parent = WindowKey::new(key.vm, parent);
                    assert!(self.windows.contains_key(&parent), "an orphaned popup");
                    assert!(self.toplevel_of(*key).is_some());
                    let times = self.popups.iter().filter(|other| *other == key).count();
                    assert_eq!(times, usize::from(mapped), "popups and phase disagree");
                    if mapped {
                        let content = self.content(*key).unwrap();
                        let bounds = self.work_area();
                        assert_eq!(
                            content.grown(theme::POPUP_BORDER).intersection(bounds),
                            Some(content.grown(theme::POPUP_BORDER)),
                            "a popup leaves the work area"
                        );
                    }
                }
            }
        }
        for key in self.stack.iter().chain(&self.popups) {
            assert!(self.windows.contains_key(key), "a listed window is gone");
        }
        for &key in &self.stack {
            let frame = frame::around(self.content(key).unwrap());
            let visible = frame.intersection(self.work_area()).unwrap();
            assert!(
                visible.w >= theme::GRAB && visible.h >= theme::GRAB,
                "a frame cannot be grabbed: {frame:?}"
            );
            assert!(frame.y >= theme::PANEL, "a frame covers the trusted strip");
        }
        if let Some(focus) = self.focus {
            assert!(
                self.stack.contains(&focus),
                "the focus is not on the screen"
            );
        }
        assert!(matches!(self.hit(Point::new(5, 5)), super::Hit::Panel));
    }
}
