//! One window's content as one image: the surface tree flattened by pixman, only where it changed.

use casemate_window_wire::{Format, limits::MAX_EXTENT};
use smithay::{
    backend::{
        allocator::Fourcc,
        renderer::{
            Bind as _, Offscreen as _,
            damage::OutputDamageTracker,
            element::{
                Kind,
                surface::{WaylandSurfaceRenderElement, render_elements_from_surface_tree},
            },
            pixman::{PixmanError, PixmanRenderer},
            utils::with_renderer_surface_state,
        },
    },
    desktop::utils::bbox_from_surface_tree,
    reexports::{pixman::Image, wayland_server::protocol::wl_surface::WlSurface},
    utils::{Logical, Rectangle, Transform},
    wayland::{compositor::with_states, shell::xdg::SurfaceCachedState},
};

use crate::{damage::Damage, memory, slots::Source};

/// A window's image and what it last showed.
pub(crate) struct Canvas {
    image: Image<'static, 'static>,
    tracker: OutputDamageTracker,
    size: (i32, i32),
    /// Whether the image holds an earlier frame, so that only the difference is drawn.
    drawn: bool,
}

/// Why a content could not be drawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrawError {
    /// pixman refused.
    #[error("pixman: {0}")]
    Pixman(#[from] PixmanError),
    /// The frame could not be put together.
    #[error("frame: {0}")]
    Frame(String),
}

impl Canvas {
    /// A blank image.
    ///
    /// # Errors
    /// [`DrawError`], when there is no memory for it.
    pub(crate) fn new(
        renderer: &mut PixmanRenderer,
        size: (i32, i32),
        format: Format,
    ) -> Result<Self, DrawError> {
        let fourcc = match format {
            Format::Xrgb8888 => Fourcc::Xrgb8888,
            Format::Argb8888 => Fourcc::Argb8888,
        };
        Ok(Self {
            image: renderer.create_buffer(fourcc, size.into())?,
            tracker: OutputDamageTracker::new(size, 1.0, Transform::Normal),
            size,
            drawn: false,
        })
    }

    pub(crate) fn size(&self) -> (i32, i32) {
        self.size
    }

    /// Draws what changed in the tree of `surface`, of which `geometry` is the part to show.
    ///
    /// # Errors
    /// [`DrawError`]; the next call then draws everything.
    pub(crate) fn draw(
        &mut self,
        renderer: &mut PixmanRenderer,
        surface: &WlSurface,
        geometry: Rectangle<i32, Logical>,
    ) -> Result<Damage, DrawError> {
        let origin = (-geometry.loc.x, -geometry.loc.y);
        let elements: Vec<WaylandSurfaceRenderElement<PixmanRenderer>> =
            render_elements_from_surface_tree(
                renderer,
                surface,
                origin,
                1.0,
                1.0,
                Kind::Unspecified,
            );
        let age = usize::from(self.drawn);
        self.drawn = false;
        let mut target = renderer.bind(&mut self.image)?;
        let frame = self
            .tracker
            .render_output(renderer, &mut target, age, &elements, [0.0; 4])
            .map_err(|error| DrawError::Frame(format!("{error:?}")))?;
        let rects = frame.damage.into_iter().flatten().copied();
        let damage = Damage::clipped(rects, self.size.into());
        self.drawn = true;
        Ok(damage)
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            pixels: memory::pixels(&self.image),
            stride: self.image.stride(),
        }
    }
}

/// Whether a surface has content at all.
pub(crate) fn has_buffer(surface: &WlSurface) -> bool {
    with_renderer_surface_state(surface, |state| state.buffer().is_some()).unwrap_or(false)
}

/// The part of a window's surface tree that is the window: without shadows, and never larger than the host takes.
/// `None` without content.
pub(crate) fn geometry(surface: &WlSurface) -> Option<Rectangle<i32, Logical>> {
    if !has_buffer(surface) {
        return None;
    }
    let bounds = bbox_from_surface_tree(surface, (0, 0));
    let chosen = with_states(surface, |states| {
        states
            .cached_state
            .get::<SurfaceCachedState>()
            .current()
            .geometry
    });
    let mut geometry = match chosen {
        Some(chosen) => chosen.intersection(bounds)?,
        None => bounds,
    };
    let most = i32::try_from(MAX_EXTENT).unwrap_or(i32::MAX);
    geometry.size.w = geometry.size.w.min(most);
    geometry.size.h = geometry.size.h.min(most);
    (!geometry.is_empty()).then_some(geometry)
}
