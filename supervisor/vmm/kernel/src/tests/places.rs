//! Where initrds go, and which command lines a kernel reads.

use super::*;

#[test]
fn the_initrd_lies_at_the_end_of_ram_after_the_kernel() {
    for (len, kernel_end, expected) in [
        (1, 0x100_0000, Some(0x3ff_f000..0x3ff_f001)),
        (0x1000, 0x100_0000, Some(0x3ff_f000..0x400_0000)),
        (0x1001, 0x100_0000, Some(0x3ff_e000..0x3ff_f001)),
        (0, 0x100_0000, Some(0x400_0000..0x400_0000)),
        (0x300_0000, 0x100_0000, Some(0x100_0000..0x400_0000)),
        (0x300_0001, 0x100_0000, None),
        (0x3f0_0000, 0, Some(0x10_0000..0x400_0000)),
        (0x3f0_0001, 0, None),
        (0x400_0001, 0, None),
        (u64::MAX, 0x100_0000, None),
        (0, 0x400_0001, None),
    ] {
        assert_eq!(
            place_initrd(len, kernel_end, &RAM).ok(),
            expected,
            "{len:#x}"
        );
    }
}

#[test]
fn command_lines_are_what_the_kernel_reads() {
    let line = |len: usize| "x".repeat(len);
    assert_eq!(
        CommandLine::new("quiet").map(|line| line.as_bytes().to_vec()),
        Ok(b"quiet\0".to_vec())
    );
    for (text, expected) in [
        (line(COMMAND_LINE_MAX - 1), None),
        (line(2048), Some(InvalidCommandLine::TooLong(2048))),
        (line(65536), Some(InvalidCommandLine::TooLong(65536))),
        ("\0".to_owned(), Some(InvalidCommandLine::Nul(0))),
        ("a\0b".to_owned(), Some(InvalidCommandLine::Nul(1))),
        (line(4000) + "\0", Some(InvalidCommandLine::Nul(4000))),
    ] {
        assert_eq!(CommandLine::new(&text).err(), expected, "{}", text.len());
    }
}
