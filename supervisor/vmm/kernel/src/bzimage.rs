//! bzImage: the setup header (Linux `Documentation/arch/x86/boot.rst`) and what of the file is loaded.

use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::image::{Image, ImageError};
use crate::plan::{Entry, Plan, Segment, in_ram};

/// Where the setup header is, in the file as in the zero page.
const HEADER: u64 = 0x1f1;
/// Bytes of a setup sector.
const SECTOR: u64 = 512;
/// What zero setup sectors mean.
const DEFAULT_SECTORS: u64 = 4;
/// `HdrS`.
const MAGIC: u32 = 0x5372_6448;
/// The protocol that tells whether there is a 64-bit entry.
const VERSION: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const ENTRY_64: u16 = 1;
const ABOVE_4_GIB: u16 = 1 << 1;
/// Where the 64-bit entry is, from the start of what is loaded.
const ENTRY_OFFSET: u64 = 0x200;
/// `syssize` counts in these.
const PARAGRAPH: u64 = 16;
/// Coarsest alignment that a kernel may ask for: what 4-level page tables map in one piece.
const MAX_ALIGNMENT: u32 = 1 << 30;

/// The setup header up to protocol 2.15, of which the loader fills in some fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, packed)]
pub struct SetupHeader {
    setup_sects: u8,
    root_flags: U16,
    syssize: U32,
    ram_size: U16,
    vid_mode: U16,
    root_dev: U16,
    boot_flag: U16,
    jump: [u8; 2],
    header: U32,
    version: U16,
    realmode_switch: U32,
    start_sys_seg: U16,
    kernel_version: U16,
    type_of_loader: u8,
    loadflags: u8,
    setup_move_size: U16,
    code32_start: U32,
    ramdisk_image: U32,
    ramdisk_size: U32,
    bootsect_kludge: U32,
    heap_end_ptr: U16,
    ext_loader_ver: u8,
    ext_loader_type: u8,
    cmd_line_ptr: U32,
    initrd_addr_max: U32,
    kernel_alignment: U32,
    relocatable_kernel: u8,
    min_alignment: u8,
    xloadflags: U16,
    cmdline_size: U32,
    hardware_subarch: U32,
    hardware_subarch_data: U64,
    payload_offset: U32,
    payload_length: U32,
    setup_data: U64,
    pref_address: U64,
    init_size: U32,
    handover_offset: U32,
    kernel_info_offset: U32,
}

impl SetupHeader {
    /// Where it goes in the zero page.
    pub const OFFSET: usize = 0x1f1;

    /// The header as the kernel finds it: command line at `command_line`, initrd at `initrd`, nothing else of ours.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] when the kernel cannot use an initrd there.
    pub fn fill(&self, command_line: u32, initrd: Range<u32>) -> Result<Vec<u8>, ImageError> {
        /// A loader without a number of its own.
        const UNKNOWN_LOADER: u8 = 0xff;
        /// The mode that the screen has.
        const NORMAL_MODE: u16 = 0xffff;
        let last = initrd.end.saturating_sub(1);
        if self.xloadflags.get() & ABOVE_4_GIB == 0 && last > self.initrd_addr_max.get() {
            return Err(ImageError::Damaged(
                "it cannot use an initrd at the end of this VM's memory",
            ));
        }
        let filled = Self {
            type_of_loader: UNKNOWN_LOADER,
            vid_mode: NORMAL_MODE.into(),
            ramdisk_image: initrd.start.into(),
            ramdisk_size: initrd.end.saturating_sub(initrd.start).into(),
            cmd_line_ptr: command_line.into(),
            // A list that nobody has put into memory.
            setup_data: 0.into(),
            ..*self
        };
        Ok(filled.as_bytes().to_vec())
    }
}

/// The plan of a bzImage.
pub(crate) fn plan<F: Read + Seek>(
    image: &mut Image<'_, F>,
    ram: &Range<u64>,
) -> Result<Plan, ImageError> {
    const FORMAT: ImageError = ImageError::Format("a bzImage");
    if image.len() < HEADER.saturating_add(SECTOR) {
        return Err(FORMAT);
    }
    let mut setup: SetupHeader = image.header("setup header", HEADER)?;
    if setup.header.get() != MAGIC {
        return Err(FORMAT);
    }
    check_age(&setup)?;
    clear_after_end(&mut setup);

    let sectors = match setup.setup_sects {
        0 => DEFAULT_SECTORS,
        count => count.into(),
    };
    let start = sectors.saturating_add(1).saturating_mul(SECTOR);
    let paragraphs = u64::from(setup.syssize.get());
    // The last paragraph need not be full. A signature may follow.
    let file = match image.len().checked_sub(start) {
        Some(rest) if paragraphs == rest.div_ceil(PARAGRAPH) => start..image.len(),
        _ => image.range("code", start, paragraphs.saturating_mul(PARAGRAPH))?,
    };
    let len = file.end.saturating_sub(file.start);
    if len <= ENTRY_OFFSET {
        return Err(ImageError::Damaged("it has no code"));
    }
    let payload =
        u64::from(setup.payload_offset.get()).saturating_add(u64::from(setup.payload_length.get()));
    if payload > len {
        return Err(ImageError::Damaged(
            "the packed kernel is longer than the code",
        ));
    }
    let alignment = setup.kernel_alignment.get();
    let address = setup.pref_address.get();
    if !alignment.is_power_of_two()
        || alignment > MAX_ALIGNMENT
        || !address.is_multiple_of(alignment.into())
    {
        return Err(ImageError::Damaged("it has an impossible alignment"));
    }
    // It unpacks itself in place and needs this much to do so.
    let needed = len.max(setup.init_size.get().into());
    let memory = in_ram(address, needed, ram)?;
    Ok(Plan {
        end: memory.end,
        entry: Entry::Long {
            address: address.saturating_add(ENTRY_OFFSET),
            setup,
        },
        segments: vec![Segment { file, memory }],
    })
}

fn check_age(setup: &SetupHeader) -> Result<(), ImageError> {
    if setup.version.get() < VERSION {
        Err(ImageError::Old("speaks an old boot protocol"))
    } else if setup.loadflags & LOADED_HIGH == 0 {
        Err(ImageError::Old("is a zImage"))
    } else if setup.xloadflags.get() & ENTRY_64 == 0 {
        Err(ImageError::Old("has no 64-bit entry"))
    } else {
        Ok(())
    }
}

/// The header ends where its jump goes; what follows is code, which is none of the zero page's business.
fn clear_after_end(setup: &mut SetupHeader) {
    /// The file offset from which the jump counts.
    const AFTER_JUMP: usize = 0x202;
    let [_, distance] = setup.jump;
    let end = AFTER_JUMP
        .saturating_add(distance.into())
        .saturating_sub(SetupHeader::OFFSET);
    if let Some(rest) = setup.as_mut_bytes().get_mut(end..) {
        rest.fill(0);
    }
}
