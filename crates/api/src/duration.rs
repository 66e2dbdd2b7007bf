//! Durations as Go and Kubernetes write them: `1h30m`, `1.5s`, `250ms`.

use std::time::Duration;

/// Reads a Go duration without sign: numbers (with fraction) and units `h m s ms us µs ns`, or `0`.
///
/// # Errors
/// What a duration looks like, when the text is none or it is out of range.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(EXPECTED);
    }
    if text.starts_with('-') {
        return Err("a duration cannot be negative");
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_at(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at(after, |c| c.is_ascii_digit() || c == '.');
        nanos = nanos
            .checked_add(part(number, unit)?)
            .filter(|n| *n <= MAX_NANOS)
            .ok_or(TOO_LONG)?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / NANOS).map_err(|_| TOO_LONG)?;
    let below = u32::try_from(nanos % NANOS).map_err(|_| TOO_LONG)?;
    Ok(Duration::new(seconds, below))
}

/// Reads a Gateway API duration (GEP-2257): up to four whole numbers of at most five digits, with units `h m s ms`.
///
/// # Errors
/// What such a duration looks like, when the text is none.
pub fn parse_gateway(text: &str) -> Result<Duration, &'static str> {
    let mut parts = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_at(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_at(after, |c| c.is_ascii_digit());
        parts += 1;
        if parts > 4
            || number.is_empty()
            || number.len() > 5
            || !["h", "m", "s", "ms"].contains(&unit)
        {
            return Err(GATEWAY_EXPECTED);
        }
        rest = after;
    }
    if parts == 0 {
        Err(GATEWAY_EXPECTED)
    } else {
        parse(text)
    }
}

/// Writes a duration as Go does: `1h30m0s`, `1.5s`, `250ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < NANOS {
        let (unit, size) = match nanos {
            n if n < 1_000 => ("ns", 1),
            n if n < 1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, size));
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let last = decimal(nanos - u128::from(seconds - seconds % 60) * NANOS, NANOS);
    match (hours, minutes) {
        (0, 0) => format!("{last}s"),
        (0, _) => format!("{minutes}m{last}s"),
        _ => format!("{hours}h{minutes}m{last}s"),
    }
}

fn split_at(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

fn part(number: &str, unit: &str) -> Result<u128, &'static str> {
    let size: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS,
        "m" => 60 * NANOS,
        "h" => 3600 * NANOS,
        _ => return Err(EXPECTED),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(EXPECTED);
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| TOO_LONG)?
    };
    let mut nanos = whole.checked_mul(size).ok_or(TOO_LONG)?;
    let mut place = size;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += u128::from(digit - b'0') * place;
    }
    Ok(nanos)
}

fn decimal(value: u128, size: u128) -> String {
    let (whole, fraction) = (value / size, value % size);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = size.ilog10() as usize;
    format!(
        "{whole}.{}",
        format!("{fraction:0width$}").trim_end_matches('0')
    )
}

const NANOS: u128 = 1_000_000_000;
/// Go's largest duration, about 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;
const EXPECTED: &str = "a duration is written like 1h30m, 1.5s or 250ms";
const GATEWAY_EXPECTED: &str =
    "a duration is written like 1h30m, 10s or 250ms, in whole numbers of at most five digits";
const TOO_LONG: &str = "a duration is at most 292 years";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_as_go_does() {
        let cases = [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("1ns", 1, "1ns"),
            ("1500us", 1_500_000, "1.5ms"),
            ("250ms", 250_000_000, "250ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1h30m5.25s", 5_405_250_000_000, "1h30m5.25s"),
        ];
        for (text, nanos, written) in cases {
            let duration = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(duration.as_nanos(), nanos, "{text}");
            assert_eq!(format(duration), written);
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1d",
            "1s ",
            " 1s",
            "1..5s",
            ".s",
            "1s2",
            "999999999999999999999h",
            "300000000h",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "1.5s", "1us", "100000s", "1h1m1s1ms1h"] {
            assert!(parse_gateway(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_gateway("1h30m"), Ok(Duration::from_secs(5400)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.hmsnuµ-]{0,40}") {
            let _ = parse(&text);
            let _ = parse_gateway(&text);
        }
    }
}
