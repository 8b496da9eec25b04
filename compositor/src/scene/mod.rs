//! From the model to a picture: one list of elements, front to back, each window in its own place of the stack.
//!
//! Front first: pointer, prompt, notices, trusted strip, then each window as
//! `[title bar, content, frame in the label's colour, ring]`. The frame is one opaque rectangle in the exact colour
//! of the label, behind title and content: nothing of a guest is ever drawn on a border, and a see-through
//! content shows that colour, not another VM.

mod cursor;
mod decor;
pub(crate) mod draw;
mod fill;
mod glyphs;
mod panel;
mod picture;
mod render;
pub(crate) mod sanitise;
mod text;

use std::collections::BTreeMap;

use smithay::backend::renderer::{
    element::{Kind, memory::MemoryRenderBufferRenderElement},
    pixman::{PixmanError, PixmanRenderer},
};

pub(crate) use cursor::{Cursors, Shape};
pub(crate) use panel::Panel;
pub(crate) use picture::{Content, Picture};
pub(crate) use render::{Frame, RenderError, Renderer};
pub(crate) use text::{Field, Style, Typesetter};

use crate::{
    geometry::Point,
    prompt::Overlay,
    theme,
    windows::{Windows, close_button},
    words::WindowKey,
};
use fill::{Fills, Part};
use render::Element;

/// Everything that drawing keeps between frames.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) typesetter: Typesetter,
    pub(crate) panel: Panel,
    decor: decor::Decor,
    fills: Fills,
    cursors: Cursors,
}

/// The pointer as it is to be drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pointer {
    pub(crate) at: Point,
    pub(crate) shape: Shape,
}

/// What one frame is made of, apart from the windows.
#[derive(Debug)]
pub(crate) struct Top<'a> {
    pub(crate) pointer: Option<Pointer>,
    pub(crate) overlay: &'a Overlay,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            typesetter: Typesetter::new(),
            panel: Panel::default(),
            decor: decor::Decor::default(),
            fills: Fills::default(),
            cursors: Cursors::default(),
        }
    }

    /// The elements of a frame, front first.
    pub(crate) fn elements(
        &mut self,
        renderer: &mut PixmanRenderer,
        windows: &Windows,
        contents: &BTreeMap<WindowKey, Content>,
        top: &Top<'_>,
    ) -> Result<Vec<Element>, PixmanError> {
        let mut elements = Vec::new();
        if let Some(pointer) = top.pointer
            && let Some((picture, hotspot)) = self.cursors.get(pointer.shape)
        {
            elements.push(picture.element(renderer, pointer.at.minus(hotspot), Kind::Cursor)?);
        }
        for (picture, at) in top.overlay.prompt.iter().chain(&top.overlay.notices) {
            elements.push(picture.element(renderer, *at, Kind::Unspecified)?);
        }
        self.panel.update(&mut self.typesetter, windows);
        if let Some(picture) = self.panel.picture() {
            elements.push(picture.element(renderer, Point::default(), Kind::Unspecified)?);
        }
        if top.overlay.prompt.is_some() {
            let veil = self.fills.veil(windows.work_area());
            elements.push(Element::Fill(veil));
        }
        self.window_elements(renderer, windows, contents, &mut elements)?;
        self.decor.sweep();
        self.fills.sweep();
        Ok(elements)
    }

    fn window_elements(
        &mut self,
        renderer: &mut PixmanRenderer,
        windows: &Windows,
        contents: &BTreeMap<WindowKey, Content>,
        elements: &mut Vec<Element>,
    ) -> Result<(), PixmanError> {
        for layer in windows.layers() {
            if !layer.popup {
                let bar = layer.title_bar();
                let close_place = close_button(layer.frame, windows.output());
                let width = close_place.x - bar.x;
                let (title, close) = self.decor.title_bar(&mut self.typesetter, &layer, width);
                elements.push(close.element(renderer, close_place.origin(), Kind::Unspecified)?);
                elements.push(title.element(renderer, bar.origin(), Kind::Unspecified)?);
            }
            if let Some(content) = contents.get(&layer.key) {
                elements.push(Element::Picture(content.element(renderer, layer.content)?));
            }
            let colour = layer.label.into();
            let frame = self.fills.fill(layer.key, Part::Frame, layer.frame, colour);
            elements.push(Element::Fill(frame));
            let ring_colour = if colour == theme::BLACK {
                theme::RING_COLOUR_ON_BLACK
            } else {
                theme::RING_COLOUR
            };
            let ring = self.fills.fill(
                layer.key,
                Part::Ring,
                layer.frame.grown(theme::RING),
                ring_colour,
            );
            elements.push(Element::Fill(ring));
        }
        Ok(())
    }
}

/// The element of a picture at a place.
fn picture_element(
    renderer: &mut PixmanRenderer,
    buffer: &smithay::backend::renderer::element::memory::MemoryRenderBuffer,
    at: Point,
    kind: Kind,
) -> Result<Element, PixmanError> {
    MemoryRenderBufferRenderElement::from_buffer(
        renderer,
        (f64::from(at.x), f64::from(at.y)),
        buffer,
        None,
        None,
        None,
        kind,
    )
    .map(Element::Picture)
}
