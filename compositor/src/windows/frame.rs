//! Frames around contents, and the list of everything visible, front to back.

use casemate_vm::Label;

use super::{Phase, Role, Window, Windows};
use crate::{
    geometry::{Point, Rect, Size},
    theme,
    words::WindowKey,
};

/// The frame of a toplevel around its content: border, title bar, and room for a readable title.
pub(super) fn around(content: Rect) -> Rect {
    Rect {
        x: content.x - theme::BORDER,
        y: content.y - theme::BORDER - theme::TITLE,
        w: content.w.max(theme::MIN_INNER_WIDTH) + 2 * theme::BORDER,
        h: content.h.max(theme::MIN_INNER_HEIGHT) + 2 * theme::BORDER + theme::TITLE,
    }
}

/// Where the content begins in a frame that begins at `frame`.
pub(super) fn content_origin(frame: Point) -> Point {
    Point::new(
        frame.x + theme::BORDER,
        frame.y + theme::BORDER + theme::TITLE,
    )
}

/// One visible window as the scene draws it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer<'a> {
    pub(crate) key: WindowKey,
    pub(crate) label: Label,
    pub(crate) vm_name: &'a str,
    pub(crate) title: &'a str,
    pub(crate) popup: bool,
    pub(crate) focused: bool,
    pub(crate) stuck: bool,
    /// The visible part of the content.
    pub(crate) content: Rect,
    /// Everything in the label's colour.
    pub(crate) frame: Rect,
}

impl Layer<'_> {
    /// The title bar of a toplevel.
    pub(crate) fn title_bar(&self) -> Rect {
        title_bar(self.frame)
    }
}

/// The title bar of a toplevel's frame.
pub(crate) fn title_bar(frame: Rect) -> Rect {
    Rect {
        x: frame.x + theme::BORDER,
        y: frame.y + theme::BORDER,
        w: frame.w - 2 * theme::BORDER,
        h: theme::TITLE,
    }
}

/// The close button in a toplevel's title bar: at its right end, or at the output's edge if the bar goes on beyond it.
pub(crate) fn close_button(frame: Rect, output: Size) -> Rect {
    let bar = title_bar(frame);
    Rect {
        x: bar.right().min(output.w).max(bar.x + theme::TITLE) - theme::TITLE,
        w: theme::TITLE,
        ..bar
    }
}

impl Windows {
    /// The content of a window on the output; of a popup only as much as it may show.
    pub(crate) fn content(&self, key: WindowKey) -> Option<Rect> {
        let window = self.windows.get(&key)?;
        match window.role {
            Role::Toplevel { .. } => Some(Rect::new(window.origin, window.size)),
            Role::Popup { parent, .. } => {
                // Ends: a parent exists before its child, and depth is bounded at creation.
                let parent = self.content(WindowKey::new(key.vm, parent))?;
                let (_, allowed) = window.placed?;
                Some(Rect::new(
                    parent.origin().offset(window.origin),
                    window.size.min(allowed),
                ))
            }
        }
    }

    /// Everything visible, front first; each window's popups right before it.
    pub(crate) fn layers(&self) -> Vec<Layer<'_>> {
        let mut layers = Vec::new();
        for &toplevel in self.stack.iter().rev() {
            for &popup in self.popups.iter().rev() {
                if self.toplevel_of(popup) == Some(toplevel) {
                    layers.extend(self.layer(popup));
                }
            }
            layers.extend(self.layer(toplevel));
        }
        layers
    }

    fn layer(&self, key: WindowKey) -> Option<Layer<'_>> {
        let window = self.windows.get(&key)?;
        if window.phase != Phase::Mapped {
            return None;
        }
        let vm = self.vms.get(&key.vm)?;
        let content = self.content(key)?;
        let popup = matches!(window.role, Role::Popup { .. });
        let frame = if popup {
            content.grown(theme::POPUP_BORDER)
        } else {
            around(content)
        };
        Some(Layer {
            key,
            label: vm.label,
            vm_name: vm.name.as_str(),
            title: &window.title,
            popup,
            focused: self.focus == Some(key),
            stuck: vm.stuck,
            content,
            frame,
        })
    }

    /// The toplevel that a window hangs on, or itself.
    pub(super) fn toplevel_of(&self, mut key: WindowKey) -> Option<WindowKey> {
        loop {
            match self.windows.get(&key)?.role {
                Role::Toplevel { .. } => return Some(key),
                Role::Popup { parent, .. } => key = WindowKey::new(key.vm, parent),
            }
        }
    }

    /// Whether `key` is `ancestor` or hangs below it.
    pub(super) fn hangs_on(&self, mut key: WindowKey, ancestor: WindowKey) -> bool {
        loop {
            if key == ancestor {
                return true;
            }
            match self.windows.get(&key) {
                Some(Window {
                    role: Role::Popup { parent, .. },
                    ..
                }) => key = WindowKey::new(key.vm, *parent),
                _ => return false,
            }
        }
    }

    /// The largest content whose frame fits into the work area.
    pub(super) fn bounds(&self) -> Size {
        let area = self.work_area();
        Size::new(
            area.w - 2 * theme::BORDER,
            area.h - 2 * theme::BORDER - theme::TITLE,
        )
    }

    /// Smallest and largest content size that a person may give a toplevel.
    pub(super) fn size_limits(&self, key: WindowKey) -> (Size, Size) {
        let area = self.work_area();
        let largest = Size::new(area.w * 2, area.h * 2);
        match self.windows.get(&key) {
            Some(window) => {
                let min = window.min.max(Size::new(theme::GRAB, theme::GRAB));
                let cap = |max: i32, largest: i32, min: i32| {
                    if max == 0 {
                        largest.max(min)
                    } else {
                        max.max(min)
                    }
                };
                let max = Size::new(
                    cap(window.max.w, largest.w, min.w),
                    cap(window.max.h, largest.h, min.h),
                );
                (min, max)
            }
            None => (Size::default(), largest),
        }
    }
}
