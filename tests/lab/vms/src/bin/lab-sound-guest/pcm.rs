//! A sound device of the kernel by its plain ioctls (`sound/asound.h`), whole frames in and out.
#![expect(unsafe_code, reason = "ioctls of a driver that rustix does not know")]

use std::ffi::c_ulong;
use std::fs::File;
use std::io::{Error, Result};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{NoArg, Opcode, Updater, ioctl, opcode};

use super::shape::Shape;

/// How many periods the kernel's buffer has: 160 ms, the most that the driver takes of the densest shape.
const PERIODS: u32 = 8;

/// How long a period may take to be heard.
const LIMIT: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

const ACCESS_INTERLEAVED: usize = 3;
const SUBFORMAT_STANDARD: usize = 0;
/// Intervals by number, less that of the first.
const CHANNELS: usize = 2;
const RATE: usize = 3;
const PERIOD_FRAMES: usize = 5;
const PERIOD_COUNT: usize = 7;

/// A set of up to 256 values.
#[derive(Clone, Copy)]
#[repr(C)]
struct Mask([u32; 8]);

impl Mask {
    fn only(value: usize) -> Self {
        let mut bits = [0; 8];
        bits[value / 32] = 1 << (value % 32);
        Self(bits)
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Interval {
    min: u32,
    max: u32,
    /// Whether the ends are outside, whole numbers only, empty.
    bits: u32,
}

/// `struct snd_pcm_hw_params`.
#[repr(C)]
struct Hardware {
    flags: u32,
    /// Access, format, subformat; then five of the future.
    masks: [Mask; 8],
    /// Twelve, then nine of the future.
    intervals: [Interval; 21],
    asked: u32,
    changed: u32,
    info: u32,
    bits: u32,
    rate: [u32; 2],
    fifo: c_ulong,
    reserved: [u8; 64],
}

/// `struct snd_pcm_sw_params`.
#[repr(C)]
struct Software {
    time_mode: u32,
    period_step: u32,
    sleep_min: u32,
    available_min: c_ulong,
    align: c_ulong,
    start: c_ulong,
    stop: c_ulong,
    silence: [c_ulong; 2],
    boundary: c_ulong,
    protocol: u32,
    time_kind: u32,
    reserved: [u8; 56],
}

/// `struct snd_xferi`.
#[repr(C)]
struct Transfer {
    result: isize,
    samples: *mut u8,
    frames: c_ulong,
}

// The numbers of the ioctls have these lengths in them.
const _: () = assert!(size_of::<Hardware>() == 608 && size_of::<Software>() == 136);

const HARDWARE: Opcode = opcode::read_write::<Hardware>(b'A', 0x11);
const SOFTWARE: Opcode = opcode::read_write::<Software>(b'A', 0x13);
const PREPARE: Opcode = opcode::none(b'A', 0x40);
const DRAIN: Opcode = opcode::none(b'A', 0x44);
const WRITE: Opcode = opcode::write::<Transfer>(b'A', 0x50);
const READ: Opcode = opcode::read::<Transfer>(b'A', 0x51);

/// An open device with its parameters set.
pub(super) struct Pcm {
    file: File,
    frame: usize,
}

impl Pcm {
    /// Opens a device, prepared. It starts with the first frame that is read, or when its buffer is full, or when it is
    /// drained. It does not stop when nothing is there to be played or there is no room: then somebody waits, and nothing
    /// is lost here.
    pub(super) fn open(path: &str, shape: Shape) -> Result<Self> {
        let playing = path.ends_with('p');
        let file = File::options().read(true).write(true).open(path)?;
        let period = shape.rate / 50;
        let mut hardware = Hardware {
            flags: 0,
            masks: [Mask([u32::MAX; 8]); 8],
            intervals: [Interval {
                min: 0,
                max: u32::MAX,
                bits: 0,
            }; 21],
            asked: u32::MAX,
            changed: 0,
            info: 0,
            bits: 0,
            rate: [0; 2],
            fifo: 0,
            reserved: [0; 64],
        };
        hardware.masks[0] = Mask::only(ACCESS_INTERLEAVED);
        hardware.masks[1] = Mask::only(shape.format);
        hardware.masks[2] = Mask::only(SUBFORMAT_STANDARD);
        for (place, value) in [
            (CHANNELS, shape.channels),
            (RATE, shape.rate),
            (PERIOD_FRAMES, period),
            (PERIOD_COUNT, PERIODS),
        ] {
            hardware.intervals[place] = Interval {
                min: value,
                max: value,
                bits: 0,
            };
        }
        // SAFETY: the kernel reads and writes one struct of this layout.
        unsafe { ioctl(&file, Updater::<HARDWARE, _>::new(&mut hardware))? };
        let buffer = c_ulong::from(period * PERIODS);
        let mut software = Software {
            time_mode: 0,
            period_step: 1,
            sleep_min: 0,
            // What `poll` waits for.
            available_min: c_ulong::from(period),
            align: 1,
            start: if playing { buffer } else { 1 },
            stop: buffer,
            silence: [0; 2],
            boundary: 0,
            protocol: 0,
            time_kind: 0,
            reserved: [0; 56],
        };
        // The first time to learn the boundary, which says never.
        for _ in 0..2 {
            // SAFETY: as above.
            unsafe { ioctl(&file, Updater::<SOFTWARE, _>::new(&mut software))? };
            software.stop = software.boundary;
        }
        // SAFETY: takes nothing.
        unsafe { ioctl(&file, NoArg::<PREPARE>::new())? };
        let frame = shape.frame_bytes();
        Ok(Self { file, frame })
    }

    /// Plays a period, as soon as there is room for one.
    pub(super) fn write(&self, samples: &mut [u8]) -> Result<()> {
        self.wait(PollFlags::OUT)?;
        self.transfer::<WRITE>(samples)
    }

    /// Starts to record, and fills `samples`, a period.
    pub(super) fn read_first(&self, samples: &mut [u8]) -> Result<()> {
        self.transfer::<READ>(samples)
    }

    /// Fills `samples`, a period, as soon as one is there.
    pub(super) fn read(&self, samples: &mut [u8]) -> Result<()> {
        self.wait(PollFlags::IN)?;
        self.transfer::<READ>(samples)
    }

    fn wait(&self, what: PollFlags) -> Result<()> {
        let mut wanted = [PollFd::new(&self.file, what)];
        if poll(&mut wanted, Some(&LIMIT))? == 0 {
            return Err(Error::other("the stream stands still"));
        }
        Ok(())
    }

    fn transfer<const WAY: Opcode>(&self, samples: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < samples.len() {
            let rest = &mut samples[done..];
            let frames = rest.len() / self.frame;
            let mut transfer = Transfer {
                result: 0,
                samples: rest.as_mut_ptr(),
                frames: c_ulong::try_from(frames).map_err(Error::other)?,
            };
            // SAFETY: the kernel reads the struct, writes its result, and moves at most so many frames from or to `rest`.
            unsafe { ioctl(&self.file, Updater::<WAY, _>::new(&mut transfer))? };
            let moved = usize::try_from(transfer.result).map_err(Error::other)?;
            if moved == 0 {
                return Err(Error::other("no frame was moved"));
            }
            done += moved * self.frame;
        }
        Ok(())
    }

    /// Waits until everything was heard.
    pub(super) fn drain(&self) -> Result<()> {
        // SAFETY: takes nothing.
        unsafe { ioctl(&self.file, NoArg::<DRAIN>::new())? };
        Ok(())
    }
}
