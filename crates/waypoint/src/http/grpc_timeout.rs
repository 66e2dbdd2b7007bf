//! The `grpc-timeout` header.

use std::time::Duration;

/// Reads `<up to 8 digits><H|M|S|m|u|n>`; `None` when it is none.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unit = text.bytes().last()?;
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Writes a timeout in milliseconds, or in seconds when those have too many digits.
pub(super) fn format(timeout: Duration) -> String {
    let millis = timeout.as_millis().max(1);
    if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", timeout.as_secs().min(99_999_999))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1x", None),
            ("-1S", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert_eq!(format(Duration::from_secs(2)), "2000m");
        assert_eq!(format(Duration::from_secs(360_000)), "360000S");
        assert_eq!(format(Duration::from_micros(3)), "1m");
    }
}
