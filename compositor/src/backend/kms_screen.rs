//! One connector with two dumb buffers, flipped on vertical blank.

use anyhow::Context as _;
use smithay::{
    backend::{
        allocator::{
            Allocator as _, Fourcc, Modifier,
            dumb::{DumbAllocator, DumbBuffer},
        },
        drm::{
            DrmDevice, DrmDeviceFd, DrmSurface, PlaneConfig, PlaneState,
            dumb::{DumbFramebuffer, framebuffer_from_dumb_buffer},
        },
    },
    reexports::drm::control::{Device as _, Mode, ModeTypeFlags, ResourceHandles, connector, crtc},
    utils::{Rectangle, Transform},
};

use crate::{
    geometry::{Point, Rect, Size},
    scene::Frame,
};

/// A buffer that can be scanned out, and what in it is older than the newest frame.
struct Buffer {
    memory: DumbBuffer,
    framebuffer: DumbFramebuffer,
    stale: Vec<Rect>,
}

/// The screen.
pub(super) struct Screen {
    device: DrmDevice,
    surface: DrmSurface,
    buffers: [Buffer; 2],
    front: usize,
    size: Size,
    mode: Mode,
    /// The mode must be set with the next frame.
    set_mode: bool,
}

impl Screen {
    /// Takes the first connected connector at its preferred mode.
    pub(super) fn new(mut device: DrmDevice) -> anyhow::Result<Self> {
        let resources = device
            .resource_handles()
            .context("cannot list connectors")?;
        let (connector, mode, crtc) = pick(&device, &resources)?;
        let surface = device
            .create_surface(crtc, mode, &[connector])
            .context("cannot drive the connector")?;
        let (width, height) = mode.size();
        let size = Size::new(i32::from(width), i32::from(height));
        let buffers = [
            Buffer::new(device.device_fd(), size)?,
            Buffer::new(device.device_fd(), size)?,
        ];
        Ok(Self {
            device,
            surface,
            buffers,
            front: 0,
            size,
            mode,
            set_mode: true,
        })
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn refresh_mhz(&self) -> u32 {
        self.mode.vrefresh().max(1) * 1000
    }

    pub(super) fn describe(&self) -> String {
        format!("{}x{}@{}", self.size.w, self.size.h, self.mode.vrefresh())
    }

    /// Copies what changed into the back buffer and flips; a vertical blank reports it as presented.
    pub(super) fn show(&mut self, frame: &Frame, damage: &[Rect]) -> anyhow::Result<()> {
        for buffer in &mut self.buffers {
            buffer.stale.extend_from_slice(damage);
        }
        let back = 1 - self.front;
        let fd = self.device.device_fd().clone();
        let plane = self.surface.plane();
        let Some(buffer) = self.buffers.get_mut(back) else {
            anyhow::bail!("there are two buffers");
        };
        buffer.update(&fd, frame)?;
        let state = PlaneState {
            handle: plane,
            config: Some(PlaneConfig {
                src: Rectangle::from_size((f64::from(self.size.w), f64::from(self.size.h)).into()),
                dst: Rectangle::from_size((self.size.w, self.size.h).into()),
                transform: Transform::Normal,
                alpha: 1.0,
                damage_clips: None,
                fb: *buffer.framebuffer.as_ref(),
                fence: None,
            }),
        };
        if self.set_mode || self.surface.commit_pending() {
            self.surface
                .commit([state], true)
                .context("cannot set the mode")?;
            self.set_mode = false;
        } else {
            self.surface
                .page_flip([state], true)
                .context("cannot flip")?;
        }
        self.front = back;
        Ok(())
    }

    pub(super) fn pause(&mut self) {
        self.device.pause();
    }

    /// The screen is ours again; whatever it shows is not our frame.
    pub(super) fn resume(&mut self) -> anyhow::Result<()> {
        self.device
            .activate(false)
            .context("cannot take the screen back")?;
        let whole = Rect::new(Point::default(), self.size);
        for buffer in &mut self.buffers {
            buffer.stale = vec![whole];
        }
        self.set_mode = true;
        Ok(())
    }
}

impl Buffer {
    fn new(fd: &DrmDeviceFd, size: Size) -> anyhow::Result<Self> {
        let (width, height) = size.to_wire();
        let memory = DumbAllocator::new(fd.clone())
            .create_buffer(width, height, Fourcc::Xrgb8888, &[Modifier::Linear])
            .context("cannot make a dumb buffer")?;
        let framebuffer = framebuffer_from_dumb_buffer(fd, &memory, true)
            .context("cannot scan out a dumb buffer")?;
        Ok(Self {
            memory,
            framebuffer,
            stale: vec![Rect::new(Point::default(), size)],
        })
    }

    fn update(&mut self, fd: &DrmDeviceFd, frame: &Frame) -> anyhow::Result<()> {
        let mut handle = *self.memory.handle();
        let pitch = usize::try_from(smithay::reexports::drm::buffer::Buffer::pitch(&handle))?;
        let mut mapping = fd
            .map_dumb_buffer(&mut handle)
            .context("cannot map a dumb buffer")?;
        for rect in self.stale.drain(..) {
            for row in 0..rect.h {
                let Some(from) = frame.row(rect, row) else {
                    continue;
                };
                let start = usize::try_from(rect.y + row)? * pitch + usize::try_from(rect.x)? * 4;
                if let Some(to) = mapping.get_mut(start..start + from.len()) {
                    to.copy_from_slice(from);
                }
            }
        }
        Ok(())
    }
}

/// The first connected connector, its mode, and a scan-out engine for it.
fn pick(
    device: &DrmDevice,
    resources: &ResourceHandles,
) -> anyhow::Result<(connector::Handle, Mode, crtc::Handle)> {
    for &handle in resources.connectors() {
        let Ok(info) = device.get_connector(handle, true) else {
            continue;
        };
        if info.state() != connector::State::Connected {
            continue;
        }
        let preferred = info
            .modes()
            .iter()
            .find(|mode| mode.mode_type().contains(ModeTypeFlags::PREFERRED));
        let Some(&mode) = preferred.or_else(|| info.modes().first()) else {
            continue;
        };
        let crtc = info
            .encoders()
            .iter()
            .filter_map(|&encoder| device.get_encoder(encoder).ok())
            .flat_map(|encoder| resources.filter_crtcs(encoder.possible_crtcs()))
            .next();
        if let Some(crtc) = crtc {
            return Ok((handle, mode, crtc));
        }
    }
    anyhow::bail!("no monitor is connected")
}
