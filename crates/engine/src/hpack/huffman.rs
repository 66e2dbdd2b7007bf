//! The Huffman code of header strings (RFC 7541 5.2, appendix B).
//!
//! The code is canonical: of two codes of one length the smaller symbol has the smaller one, and each length goes on where the
//! one before ended. So the lengths say everything, and the tables are made of them when the crate is compiled.

use super::HpackError;

const SYMBOLS: usize = 257;
const END_OF_STRING: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;
/// Codes up to this length are looked up at once; it covers what header fields consist of.
const FAST_BITS: usize = 10;

/// The length of each symbol's code; the last is the end of the string.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

static CODES: Codes = Codes::build();

struct Codes {
    /// The code of each symbol, in the low bits.
    code: [u32; SYMBOLS],
    /// By the next `FAST_BITS` bits: the symbol, and above it the length of its code; 0 when that is longer.
    fast: [u16; 1 << FAST_BITS],
    /// The symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
    /// By length: what the next 32 bits are below if the next code is at most that long.
    limit: [u64; LONGEST + 1],
    /// By length: the first code, and the place of its symbol in `sorted`.
    first: [(u32, u16); LONGEST + 1],
}

impl Codes {
    const fn build() -> Self {
        let mut codes = Self {
            code: [0; SYMBOLS],
            fast: [0; 1 << FAST_BITS],
            sorted: [0; SYMBOLS],
            limit: [0; LONGEST + 1],
            first: [(0, 0); LONGEST + 1],
        };
        let mut next = 0u32;
        let mut place = 0;
        let mut length = SHORTEST;
        while length <= LONGEST {
            codes.first[length] = (next, place as u16);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    codes.code[symbol] = next;
                    codes.sorted[place] = symbol as u16;
                    if length <= FAST_BITS {
                        let spare = FAST_BITS - length;
                        let mut low = 0;
                        while low < 1 << spare {
                            codes.fast[((next as usize) << spare) | low] =
                                (length as u16) << 8 | symbol as u16;
                            low += 1;
                        }
                    }
                    next += 1;
                    place += 1;
                }
                symbol += 1;
            }
            codes.limit[length] = (next as u64) << (32 - length);
            next <<= 1;
            length += 1;
        }
        codes
    }

    /// The symbol that the first of `bits` are the code of, and the code's length.
    #[inline]
    fn symbol(&self, bits: u64) -> (u16, u32) {
        let fast = self.fast[(bits >> (64 - FAST_BITS)) as usize];
        if fast != 0 {
            return (fast & 0xff, u32::from(fast >> 8));
        }
        let window = bits >> 32;
        let mut length = FAST_BITS + 1;
        while length < LONGEST && window >= self.limit[length] {
            length += 1;
        }
        let (first, place) = self.first[length];
        let code = (window >> (32 - length)) as u32;
        let symbol = self.sorted[usize::from(place) + (code - first) as usize];
        (symbol, length as u32)
    }
}

/// Appends what `input` is the code of to `out`.
pub(super) fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    out.reserve(input.len() * 8 / SHORTEST);
    // The next bits are the highest of `bits`; below the first `count` there are zeros.
    let mut bits = 0u64;
    let mut count = 0u32;
    loop {
        if count < 32 {
            if let Some((word, rest)) = input.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (32 - count);
                count += 32;
                input = rest;
            } else {
                while let Some((&byte, rest)) = input.split_first() {
                    bits |= u64::from(byte) << (56 - count);
                    count += 8;
                    input = rest;
                }
                break;
            }
        }
        let (symbol, length) = CODES.symbol(bits);
        if symbol == END_OF_STRING {
            return Err(HpackError::Huffman);
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
    while count > 0 {
        // Less than a byte of ones is padding.
        if count < 8 && bits >> (64 - count) == (1 << count) - 1 {
            break;
        }
        let (symbol, length) = CODES.symbol(bits);
        if symbol == END_OF_STRING || length > count {
            return Err(HpackError::Huffman);
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
    Ok(())
}

/// The length of the code of `input`.
pub(super) fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input
        .iter()
        .map(|&symbol| usize::from(LENGTHS[usize::from(symbol)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the code of `input` to `out`.
pub(super) fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut bits = 0u64;
    let mut count = 0u32;
    for &symbol in input {
        let length = u32::from(LENGTHS[usize::from(symbol)]);
        bits = bits << length | u64::from(CODES.code[usize::from(symbol)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        let padding = 8 - count;
        out.push((bits << padding) as u8 | ((1u16 << padding) - 1) as u8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(input, &mut out);
        out
    }

    fn decoded(input: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_complete() {
        let kraft: u64 = LENGTHS.iter().map(|&length| 1 << (32 - length)).sum();
        assert_eq!(kraft, 1 << 32);
        assert_eq!(CODES.code[usize::from(END_OF_STRING)], (1 << 30) - 1);
    }

    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(
            encoded(b"www.example.com"),
            [
                0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff
            ]
        );
        assert_eq!(encoded(b"no-cache"), [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
        assert_eq!(encoded(b"302"), [0x64, 0x02]);
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[0x1e]), Err(HpackError::Huffman), "a zero in it");
        assert_eq!(
            decoded(&[0x1f, 0xff]),
            Err(HpackError::Huffman),
            "a whole byte"
        );
        assert_eq!(decoded(&[0xff]), Err(HpackError::Huffman));
    }

    #[test]
    fn the_end_of_the_string_has_no_place_in_one() {
        assert_eq!(decoded(&[0xff; 4]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0xff; 12]), Err(HpackError::Huffman));
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let code = encoded(&input);
            prop_assert_eq!(code.len(), encoded_len(&input));
            prop_assert_eq!(decoded(&code), Ok(input));
        }

        #[test]
        fn what_decodes_is_the_code_of_what_it_decodes_to(code in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decoded(&code) {
                prop_assert_eq!(encoded(&text), code);
            }
        }
    }
}
