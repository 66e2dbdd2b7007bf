//! What a byte may be part of.

/// The lower-case form of what a token is made of (RFC 9110 5.6.2); 0 for all else.
pub(super) static TOKEN_LOWER: [u8; 256] = token_table();

/// What an authority is made of: of RFC 3986's, all but the `@` of user information.
static AUTHORITY: [bool; 256] = authority();

/// What is wrong with a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueBytes {
    /// Nothing.
    Good,
    /// Carriage returns, and nothing worse.
    CarriageReturn,
    /// Control characters.
    Control,
}

/// How many bytes at the beginning are a token's.
#[inline]
pub(super) fn token_len(bytes: &[u8]) -> usize {
    let is_other = |b: &u8| TOKEN_LOWER[usize::from(*b)] == 0;
    bytes.iter().position(is_other).unwrap_or(bytes.len())
}

/// Whether all of it may be in an authority.
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| AUTHORITY[usize::from(*b)])
}

/// Classifies a field's value: horizontal tab and bytes above 0x7f are good.
#[inline]
pub(super) fn value_bytes(value: &[u8]) -> ValueBytes {
    if !has_control(value) {
        return ValueBytes::Good;
    }
    let mut verdict = ValueBytes::Good;
    for &b in value {
        match b {
            b'\t' | b' '..=b'~' | 0x80.. => {}
            b'\r' => verdict = ValueBytes::CarriageReturn,
            _ => return ValueBytes::Control,
        }
    }
    verdict
}

/// Whether there is no control character in it but horizontal tabs.
#[inline]
pub(super) fn is_clean(bytes: &[u8]) -> bool {
    !has_control(bytes) || value_bytes(bytes) == ValueBytes::Good
}

/// Whether there is a control character in it, horizontal tabs included.
#[inline]
fn has_control(bytes: &[u8]) -> bool {
    let block_has = |block: &[u8; 16]| block.iter().fold(false, |any, b| any | is_control(*b));
    match bytes.last_chunk::<16>() {
        Some(last) => bytes.as_chunks::<16>().0.iter().any(block_has) || block_has(last),
        None => any(bytes, is_control_in_word),
    }
}

const fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

/// Whether it is all visible ASCII.
#[inline]
pub(super) fn is_visible(bytes: &[u8]) -> bool {
    !any(bytes, |word| {
        (word.wrapping_sub(ONES * 0x21) & !word | word) & HIGH | equals(word, 0x7f)
    })
}

/// Where the first control character is, horizontal tabs included; the length if there is none.
#[inline]
pub(super) fn first_control(bytes: &[u8]) -> usize {
    let mut at = 0;
    let (blocks, _) = bytes.as_chunks::<16>();
    for block in blocks {
        // Without a way out of the loop it is done many bytes at once.
        if block.iter().fold(false, |any, b| any | is_control(*b)) {
            break;
        }
        at += 16;
    }
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let found = is_control_in_word(u64::from_le_bytes(*word));
        if found != 0 {
            // Above a byte that is meant others may be taken for such, never below it.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes[at..].iter().position(|b| is_control(*b));
    rest.map_or(bytes.len(), |rest| at + rest)
}

/// Appends the lower-case form of the token that `input` begins with, if a colon follows it: where the colon is. Else there may
/// be rubbish behind what was in `out`.
#[inline]
pub(super) fn push_name(input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    let mut at = 0;
    loop {
        if let Some(word) = input[at..].first_chunk::<8>() {
            let (lower, common) = lower_case(u64::from_le_bytes(*word));
            out.extend_from_slice(&lower.to_le_bytes());
            let other = !common & HIGH;
            if other == 0 {
                at += 8;
                continue;
            }
            at += other.trailing_zeros() as usize / 8;
            out.truncate(start + at);
        }
        match *input.get(at)? {
            b':' => return Some(at),
            byte => match TOKEN_LOWER[usize::from(byte)] {
                0 => return None,
                lower => out.push(lower),
            },
        }
        at += 1;
    }
}

/// Eight bytes in lower case, and the high bit of each that is a letter, a digit or `-`.
#[inline]
fn lower_case(word: u64) -> (u64, u64) {
    let ascii = word & !HIGH;
    // Sums of two bytes below 0x80 don't carry into the next.
    let at_least = |word: u64, byte: u8| word + ONES * u64::from(0x80 - byte);
    let upper = at_least(ascii, b'A') & !at_least(ascii, b'Z' + 1) & HIGH;
    let lower = ascii | upper >> 2;
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digit = at_least(lower, b'0') & !at_least(lower, b'9' + 1);
    let dash = at_least(lower, b'-') & !at_least(lower, b'-' + 1);
    (lower, (letter | digit | dash) & !word)
}

/// Without the white space around it.
#[inline]
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list, without empty ones.
pub(super) fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|b| *b == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES * 0x80;

/// Whether the predicate, which looks at eight bytes at once and is nonzero if any is meant, finds something.
#[inline]
fn any(bytes: &[u8], predicate: impl Fn(u64) -> u64) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let found = words
        .iter()
        .any(|word| predicate(u64::from_le_bytes(*word)) != 0);
    if found || rest.is_empty() {
        return found;
    }
    match bytes.last_chunk::<8>() {
        Some(last) => predicate(u64::from_le_bytes(*last)) != 0,
        None => {
            let mut word = [b'a'; 8]; // what no predicate means
            for (to, from) in word.iter_mut().zip(rest) {
                *to = *from;
            }
            predicate(u64::from_le_bytes(word)) != 0
        }
    }
}

#[inline]
fn is_control_in_word(word: u64) -> u64 {
    word.wrapping_sub(ONES * 0x20) & !word & HIGH | equals(word, 0x7f)
}

/// Nonzero if one of the bytes is `byte`.
#[inline]
const fn equals(word: u64, byte: u64) -> u64 {
    let zero = word ^ (ONES * byte);
    zero.wrapping_sub(ONES) & !zero & HIGH
}

const fn token_lower_of(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => byte.to_ascii_lowercase(),
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        | b'`' | b'|' | b'~' => byte,
        _ => 0,
    }
}

const fn token_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = token_lower_of(byte as u8);
        byte += 1;
    }
    table
}

const fn authority() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\''
                | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'[' | b']'
        );
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_at_once_agree_with_one_by_one() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=255u8 {
                    let mut value = vec![b'x'; len];
                    value[at] = byte;
                    let want = match byte {
                        b'\r' => ValueBytes::CarriageReturn,
                        0..=8 | 10..=31 | 127 => ValueBytes::Control,
                        _ => ValueBytes::Good,
                    };
                    assert_eq!(value_bytes(&value), want, "{byte} at {at} of {len}");
                    assert_eq!(is_visible(&value), (0x21..=0x7e).contains(&byte), "{byte}");
                }
            }
        }
    }

    #[test]
    fn names_and_controls_are_found_wherever_they_are() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=255u8 {
                    let mut input = vec![b'X'; len];
                    input[at] = byte;
                    let is_control = byte < b' ' || byte == 0x7f;
                    assert_eq!(first_control(&input), if is_control { at } else { len });
                    input.push(b':');
                    let mut out = b"kept".to_vec();
                    let want = match TOKEN_LOWER[usize::from(byte)] {
                        _ if byte == b':' => Some(at),
                        0 => None,
                        _ => Some(len),
                    };
                    assert_eq!(push_name(&input, &mut out), want, "{byte} at {at} of {len}");
                    if let Some(end) = want {
                        let lower = input[..end].to_ascii_lowercase();
                        assert_eq!(out, [b"kept", &*lower].concat());
                    }
                }
            }
        }
    }

    #[test]
    fn white_space_goes_from_both_ends() {
        for (from, to) in [("", ""), (" \t", ""), (" a b\t", "a b"), ("a", "a")] {
            assert_eq!(trim(from.as_bytes()), to.as_bytes());
        }
    }
}
