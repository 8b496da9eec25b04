//! Pixels that the renderer can draw: pictures of the host's own, and the private copy of a window's content.

use casemate_window_wire::Format;
use smithay::{
    backend::{
        allocator::Fourcc,
        renderer::{
            element::{
                Kind,
                memory::{MemoryRenderBuffer, MemoryRenderBufferRenderElement},
            },
            pixman::{PixmanError, PixmanRenderer},
        },
    },
    utils::{Buffer, Logical, Rectangle, Size as PixelSize, Transform},
};
use tiny_skia::Pixmap;

use super::render::Element;
use crate::geometry::{Point, Rect, Size};

/// A picture that the host has drawn.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    buffer: MemoryRenderBuffer,
}

impl Picture {
    /// Takes over what was drawn; `opaque` when no pixel lets anything through.
    pub(crate) fn new(pixmap: &Pixmap, opaque: bool) -> Self {
        let size = PixelSize::<i32, Buffer>::from((
            i32::try_from(pixmap.width()).unwrap_or(i32::MAX),
            i32::try_from(pixmap.height()).unwrap_or(i32::MAX),
        ));
        let buffer = MemoryRenderBuffer::from_slice(
            pixmap.data(),
            Fourcc::Abgr8888,
            size,
            1,
            Transform::Normal,
            opaque.then(|| vec![Rectangle::from_size(size)]),
        );
        Self { buffer }
    }

    pub(super) fn element(
        &self,
        renderer: &mut PixmanRenderer,
        at: Point,
        kind: Kind,
    ) -> Result<Element, PixmanError> {
        super::picture_element(renderer, &self.buffer, at, kind)
    }
}

/// The host's own copy of what a window shows. Guests never see it and cannot change it after the copy.
#[derive(Debug)]
pub(crate) struct Content {
    buffer: MemoryRenderBuffer,
    size: Size,
    format: Format,
}

impl Content {
    /// Blank content; the caller draws all of it before it is shown.
    pub(crate) fn new(size: Size, format: Format) -> Self {
        let pixels = PixelSize::<i32, Buffer>::from((size.w, size.h));
        let (fourcc, opaque) = match format {
            Format::Xrgb8888 => (Fourcc::Xrgb8888, Some(vec![Rectangle::from_size(pixels)])),
            Format::Argb8888 => (Fourcc::Argb8888, None),
        };
        Self {
            buffer: MemoryRenderBuffer::new(fourcc, pixels, 1, Transform::Normal, opaque),
            size,
            format,
        }
    }

    pub(crate) fn matches(&self, size: Size, format: Format) -> bool {
        self.size == size && self.format == format
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.size.area()).unwrap_or(u64::MAX) * 4
    }

    /// Lets `draw` change the pixels (rows of `width * 4` bytes) within these rectangles of the content.
    pub(crate) fn update(&mut self, damage: &[Rect], draw: impl FnOnce(&mut [u8])) {
        let mut context = self.buffer.render();
        let Ok(()) = context.draw(|pixels| {
            draw(pixels);
            Ok::<_, std::convert::Infallible>(
                damage
                    .iter()
                    .map(|rect| Rectangle::new((rect.x, rect.y).into(), (rect.w, rect.h).into()))
                    .collect(),
            )
        });
    }

    pub(super) fn element(
        &self,
        renderer: &mut PixmanRenderer,
        place: Rect,
    ) -> Result<MemoryRenderBufferRenderElement<PixmanRenderer>, PixmanError> {
        let shown = PixelSize::<i32, Logical>::from((place.w, place.h));
        let cut = (place.size() != self.size).then(|| Rectangle::from_size(shown).to_f64());
        MemoryRenderBufferRenderElement::from_buffer(
            renderer,
            (f64::from(place.x), f64::from(place.y)),
            &self.buffer,
            None,
            cut,
            cut.map(|_| shown),
            Kind::Unspecified,
        )
    }
}
