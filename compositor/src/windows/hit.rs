//! What lies under a point.

use super::{Edges, Windows, frame};
use crate::{geometry::Point, theme, words::WindowKey};

/// What lies under the pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// The trusted strip.
    Panel,
    /// Content of a guest; the place is relative to its left top corner.
    Content { key: WindowKey, at: Point },
    /// The title bar, for moving.
    Title(WindowKey),
    /// The close button.
    Close(WindowKey),
    /// The border, for resizing.
    Border(WindowKey, Edges),
    /// The host's own ground.
    Desktop,
}

impl Hit {
    /// The window, whichever part was hit.
    pub(crate) fn window(self) -> Option<WindowKey> {
        match self {
            Self::Content { key, .. } | Self::Title(key) | Self::Close(key) => Some(key),
            Self::Border(key, _) => Some(key),
            Self::Panel | Self::Desktop => None,
        }
    }
}

/// How far from a corner a border counts as that corner.
const CORNER: i32 = 20;

impl Windows {
    /// What lies under a point of the output.
    pub(crate) fn hit(&self, point: Point) -> Hit {
        if point.y < theme::PANEL {
            return Hit::Panel;
        }
        for layer in self.layers() {
            if !layer.frame.contains(point) {
                continue;
            }
            if layer.content.contains(point) {
                return Hit::Content {
                    key: layer.key,
                    at: point.minus(layer.content.origin()),
                };
            }
            if layer.popup {
                // The border of a popup takes the click and does nothing with it.
                return Hit::Desktop;
            }
            if frame::close_button(layer.frame, self.output()).contains(point) {
                return Hit::Close(layer.key);
            }
            if layer.title_bar().contains(point) {
                return Hit::Title(layer.key);
            }
            let frame = layer.frame;
            return Hit::Border(
                layer.key,
                Edges {
                    left: point.x < frame.x + CORNER,
                    right: point.x >= frame.right() - CORNER,
                    top: point.y < frame.y + CORNER,
                    bottom: point.y >= frame.bottom() - CORNER,
                },
            );
        }
        Hit::Desktop
    }
}
