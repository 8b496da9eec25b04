//! Composition: elements into one frame in memory, only where something changed. No GPU, no device.

use smithay::{
    backend::{
        allocator::Fourcc,
        renderer::{
            Bind, ExportMem, Offscreen,
            damage::OutputDamageTracker,
            element::{
                memory::MemoryRenderBufferRenderElement, render_elements,
                solid::SolidColorRenderElement,
            },
            pixman::{PixmanError, PixmanRenderer},
        },
    },
    reexports::pixman::Image,
    utils::{Buffer, Rectangle, Transform},
};

use super::fill::colour32;
use crate::{
    geometry::{Rect, Size},
    theme,
};

render_elements! {
    pub(crate) Element<=PixmanRenderer>;
    Picture=MemoryRenderBufferRenderElement<PixmanRenderer>,
    Fill=SolidColorRenderElement,
}

/// Why a frame could not be composed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error("cannot compose a frame")]
    Pixman(#[from] PixmanError),
    #[error("cannot track damage: {0}")]
    Damage(String),
    #[error("the composed frame has an unexpected size")]
    Size,
}

/// The finished output: rows of XRGB8888 without padding.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) size: Size,
    pub(crate) pixels: Vec<u8>,
}

impl Frame {
    fn new(size: Size) -> Self {
        let bytes = usize::try_from(size.area() * 4).unwrap_or(0);
        Self {
            size,
            pixels: vec![0; bytes],
        }
    }

    /// Bytes from row to row.
    pub(crate) fn stride(&self) -> usize {
        usize::try_from(self.size.w).unwrap_or(0) * 4
    }

    /// The bytes of one row of a rectangle that lies in the frame.
    pub(crate) fn row(&self, rect: Rect, row: i32) -> Option<&[u8]> {
        let range = self.row_range(rect, row)?;
        self.pixels.get(range)
    }

    fn row_range(&self, rect: Rect, row: i32) -> Option<std::ops::Range<usize>> {
        let y = usize::try_from(rect.y + row).ok()?;
        let start = y * self.stride() + usize::try_from(rect.x).ok()? * 4;
        Some(start..start + usize::try_from(rect.w).ok()? * 4)
    }

    /// The colour of a pixel as 0xRRGGBB.
    #[cfg(test)]
    pub(crate) fn pixel(&self, x: i32, y: i32) -> u32 {
        let rect = Rect { x, y, w: 1, h: 1 };
        let bytes: [u8; 4] = self.row(rect, 0).unwrap().try_into().unwrap();
        u32::from_le_bytes(bytes) & 0x00ff_ffff
    }
}

/// Composes frames of one output.
#[derive(Debug)]
pub(crate) struct Renderer {
    pub(crate) pixman: PixmanRenderer,
    target: Image<'static, 'static>,
    tracker: OutputDamageTracker,
    frame: Frame,
    drawn: bool,
}

impl Renderer {
    pub(crate) fn new(size: Size) -> Result<Self, RenderError> {
        let mut pixman = PixmanRenderer::new()?;
        let target = pixman.create_buffer(Fourcc::Xrgb8888, (size.w, size.h).into())?;
        Ok(Self {
            pixman,
            target,
            tracker: OutputDamageTracker::new((size.w, size.h), 1.0, Transform::Normal),
            frame: Frame::new(size),
            drawn: false,
        })
    }

    /// The output has another size; what was imported stays imported.
    pub(crate) fn resize(&mut self, size: Size) -> Result<(), RenderError> {
        self.target = self
            .pixman
            .create_buffer(Fourcc::Xrgb8888, (size.w, size.h).into())?;
        self.tracker = OutputDamageTracker::new((size.w, size.h), 1.0, Transform::Normal);
        self.frame = Frame::new(size);
        self.drawn = false;
        Ok(())
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Draws the elements, front first; answers what differs from the frame before.
    pub(crate) fn render(&mut self, elements: &[Element]) -> Result<Vec<Rect>, RenderError> {
        let age = usize::from(std::mem::replace(&mut self.drawn, true));
        let mut framebuffer = self.pixman.bind(&mut self.target)?;
        let result = self
            .tracker
            .render_output(
                &mut self.pixman,
                &mut framebuffer,
                age,
                elements,
                colour32(theme::DESKTOP),
            )
            .map_err(|error| RenderError::Damage(format!("{error:?}")))?;
        let whole = Rect::new(crate::geometry::Point::default(), self.frame.size);
        let damage: Vec<Rect> = result
            .damage
            .into_iter()
            .flatten()
            .filter_map(|rect| {
                let rect = Rect {
                    x: rect.loc.x,
                    y: rect.loc.y,
                    w: rect.size.w,
                    h: rect.size.h,
                };
                rect.intersection(whole)
            })
            .collect();
        for &rect in &damage {
            let region: Rectangle<i32, Buffer> =
                Rectangle::new((rect.x, rect.y).into(), (rect.w, rect.h).into());
            let mapping = self
                .pixman
                .copy_framebuffer(&framebuffer, region, Fourcc::Xrgb8888)?;
            let copied = self.pixman.map_texture(&mapping)?;
            let row_bytes = usize::try_from(rect.w).map_err(|_| RenderError::Size)? * 4;
            for (row, from) in (0..rect.h).zip(copied.chunks_exact(row_bytes)) {
                let range = self.frame.row_range(rect, row).ok_or(RenderError::Size)?;
                let to = self.frame.pixels.get_mut(range).ok_or(RenderError::Size)?;
                to.copy_from_slice(from);
            }
        }
        Ok(damage)
    }
}
