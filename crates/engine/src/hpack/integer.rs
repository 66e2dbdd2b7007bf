//! Integers with a prefix (RFC 7541 5.1).

use super::HpackError;

/// Appends `value`, its first bits in the low `prefix_bits` of a byte whose other bits are `flags`.
pub(super) fn put(out: &mut Vec<u8>, flags: u8, prefix_bits: u32, value: usize) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes an integer from the front of `input`, whose first byte has it in the low `prefix_bits`.
///
/// Nothing that we take is as long as 2^28, so more than four bytes after the prefix are an error.
pub(super) fn take(input: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let mask = (1usize << prefix_bits) - 1;
    let (&first, mut rest) = input.split_first().ok_or(HpackError::Truncated)?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
            rest = after;
            if shift > 21 {
                return Err(HpackError::IntegerOverflow);
            }
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    *input = rest;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_around_the_prefix_survive_the_way() {
        for prefix in 4..=7 {
            for value in (0..400).chain([4095, 4096, 65_535, 1 << 20, (1 << 28) - 1]) {
                let mut bytes = Vec::new();
                put(&mut bytes, 0, prefix, value);
                let mut input = bytes.as_slice();
                assert_eq!(take(&mut input, prefix), Ok(value));
                assert!(input.is_empty());
            }
        }
    }

    #[test]
    fn examples_of_the_rfc() {
        for (prefix, value, want) in [
            (5, 10, [0x0a].as_slice()),
            (5, 1337, &[0x1f, 0x9a, 0x0a]),
            (7, 42, &[0x2a]),
        ] {
            let mut bytes = Vec::new();
            put(&mut bytes, 0, prefix, value);
            assert_eq!(bytes, want);
        }
    }

    #[test]
    fn endless_integers_are_refused() {
        assert_eq!(
            take(&mut [0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0].as_slice(), 7),
            Err(HpackError::IntegerOverflow)
        );
        assert_eq!(
            take(&mut [0x7f, 0xff].as_slice(), 7),
            Err(HpackError::Truncated)
        );
        assert_eq!(take(&mut [].as_slice(), 7), Err(HpackError::Truncated));
    }
}
