//! Retry policies.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

/// When and how often a request is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// On what.
    pub on: RetryOn,
    /// Codes of [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<StatusCode>,
    /// How often at most, besides the first attempt.
    pub num_retries: u32,
    /// How long one attempt may take.
    pub per_try_timeout: Option<Duration>,
    /// Waits between attempts.
    pub back_off: BackOff,
    /// How often a host that was tried before is picked anew.
    pub host_selection_attempts: u32,
    /// Hosts tried before are avoided.
    pub avoid_previous_hosts: bool,
}

/// The wait before retry `n` is uniform in `[0, min(base * 2^(n-1), max))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// First upper bound.
    pub base: Duration,
    /// Last upper bound.
    pub max: Duration,
}

impl BackOff {
    /// Envoy's default: 25 ms and ten times that.
    pub const DEFAULT: BackOff = BackOff {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };

    /// The wait before retry `n` (from 1), for a uniformly distributed number.
    #[must_use]
    pub fn wait(self, n: u32, random: u64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX));
        let bound = u64::try_from(doubled.min(self.max).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if bound == 0 { 0 } else { random % bound })
    }
}

/// A set of retry conditions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl RetryOn {
            $($(#[$doc])* pub const $name: RetryOn = RetryOn(1 << $bit);)*

            const NAMES: &[(&str, RetryOn)] = &[$(($text, RetryOn::$name)),*];
        }
    };
}

conditions! {
    /// The request never left: TCP, TLS or CONNECT failed or timed out.
    CONNECT_FAILURE = 0, "connect-failure";
    /// HTTP/2 `REFUSED_STREAM`.
    REFUSED_STREAM = 1, "refused-stream";
    /// No response headers came.
    RESET = 2, "reset";
    /// The connection broke before the request headers were sent.
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    /// A 5xx, or no response at all.
    SERVER_ERROR = 4, "5xx";
    /// 502, 503, 504, or no response at all.
    GATEWAY_ERROR = 5, "gateway-error";
    /// 409.
    RETRIABLE_4XX = 6, "retriable-4xx";
    /// The codes of the policy.
    RETRIABLE_STATUS_CODES = 7, "retriable-status-codes";
    /// gRPC status 1 in response headers.
    CANCELLED = 8, "cancelled";
    /// gRPC status 4 in response headers.
    DEADLINE_EXCEEDED = 9, "deadline-exceeded";
    /// gRPC status 13 in response headers.
    INTERNAL = 10, "internal";
    /// gRPC status 8 in response headers.
    RESOURCE_EXHAUSTED = 11, "resource-exhausted";
    /// gRPC status 14 in response headers.
    UNAVAILABLE = 12, "unavailable";
    /// The upstream says that it limits the rate (`x-envoy-ratelimited`).
    RATE_LIMITED = 13, "envoy-ratelimited";
    /// HTTP/3 only; never fires here.
    HTTP3_POST_CONNECT_FAILURE = 14, "http3-post-connect-failure";
}

impl RetryOn {
    /// Reads a comma list; a name that is not known is the error.
    ///
    /// # Errors
    /// The first unknown name.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let mut all = RetryOn::default();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let (_, one) = Self::NAMES.iter().find(|(n, _)| *n == name).ok_or(name)?;
            all.0 |= one.0;
        }
        Ok(all)
    }

    /// Whether one of `other` is in it.
    #[must_use]
    pub fn intersects(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The condition that a gRPC status in response headers fulfils.
    #[must_use]
    pub fn of_grpc_status(status: u32) -> RetryOn {
        match status {
            1 => Self::CANCELLED,
            4 => Self::DEADLINE_EXCEEDED,
            8 => Self::RESOURCE_EXHAUSTED,
            13 => Self::INTERNAL,
            14 => Self::UNAVAILABLE,
            _ => RetryOn(0),
        }
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryOn(")?;
        let set = Self::NAMES.iter().filter(|(_, one)| self.intersects(*one));
        for (i, (name, _)) in set.enumerate() {
            write!(f, "{}{name}", if i == 0 { "" } else { "," })?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_istio_default() {
        let on = RetryOn::parse(
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        );
        assert_eq!(
            format!("{on:?}"),
            "Ok(RetryOn(connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable))"
        );
        assert_eq!(RetryOn::parse("5xx, nonsense"), Err("nonsense"));
    }

    #[test]
    fn back_off_grows_to_its_maximum() {
        let b = BackOff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        let most = |n| {
            b.wait(n, u64::MAX)
                .as_millis()
                .max(b.wait(n, 99_999_999).as_millis())
        };
        assert!(most(1) < 100);
        assert!(b.wait(5, 999_999_999) == Duration::from_nanos(999_999_999));
        assert!(b.wait(40, 1_000_000_000) == Duration::ZERO);
        assert_eq!(
            BackOff {
                base: Duration::ZERO,
                max: Duration::ZERO
            }
            .wait(3, 7),
            Duration::ZERO
        );
    }
}
