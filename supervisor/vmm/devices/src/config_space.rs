//! Reading a device's configuration space, whatever offset and length a guest chooses.

/// Copies the part of `space` that a driver asks for; outside of it there are zeroes.
pub(crate) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset)
        .ok()
        .and_then(|offset| space.get(offset..))
    else {
        return;
    };
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_offset_and_length_reads_what_is_there_and_zeroes_beyond() {
        let space = [1, 2, 3, 4];
        for (offset, expected) in [
            (0, [1, 2, 3]),
            (1, [2, 3, 4]),
            (2, [3, 4, 0]),
            (3, [4, 0, 0]),
            (4, [0; 3]),
            (5, [0; 3]),
            (u64::MAX, [0; 3]),
        ] {
            let mut data = [0xff; 3];
            read(&space, offset, &mut data);
            assert_eq!(data, expected, "offset {offset}");
        }
    }
}
