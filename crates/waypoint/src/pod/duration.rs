//! Durations as Go and protobuf's JSON write them.

/// Whole seconds of `24h`, `1h30m`, `5s`, `1.5s`; what is left of a second counts as one. `None` when it is no duration.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(unit);
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = after;
    }
    if text.is_empty() || total > 1e9 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "neither negative nor large"
    )]
    Some(f64::ceil(total) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_and_protobuf_write() {
        for (text, want) in [
            ("5s", Some(5)),
            ("24h", Some(86400)),
            ("24h0m0s", Some(86400)),
            ("1h30m", Some(5400)),
            ("1.5s", Some(2)),
            ("200ms", Some(1)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1s junk", None),
            ("1e99h", None),
        ] {
            assert_eq!(seconds(text), want, "{text:?}");
        }
    }
}
