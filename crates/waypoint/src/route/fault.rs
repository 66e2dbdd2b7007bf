//! What the fault and CORS filters do on one route.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::program::StringMatch;

/// A share of all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// Of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// All.
    pub const ALL: Fraction = Fraction {
        numerator: 100,
        denominator: 100,
    };

    /// Whether a uniformly distributed number falls into the share.
    #[must_use]
    pub fn fires(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// Faults injected into requests of a route: delay first, then abort, each drawn for itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Holds requests back.
    pub delay: Option<FaultDelay>,
    /// Answers instead of the upstream.
    pub abort: Option<FaultAbort>,
}

/// A delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultDelay {
    /// How long.
    pub fixed: Duration,
    /// How many.
    pub share: Fraction,
}

/// An abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbort {
    /// With an HTTP status.
    Http {
        /// The status.
        status: StatusCode,
        /// How many.
        share: Fraction,
    },
    /// With a gRPC status.
    Grpc {
        /// The status.
        status: u32,
        /// How many.
        share: Fraction,
    },
}

/// CORS on one route.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    /// Which origins.
    pub allow_origins: Vec<StringMatch>,
    /// `access-control-allow-methods`; `*` echoes what was asked for.
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`; `*` echoes what was asked for.
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: bool,
    /// Share of requests it applies to.
    pub enabled: Fraction,
    /// A preflight of another origin is passed on, not answered.
    pub forward_not_matching_preflights: bool,
}

impl Cors {
    /// Whether that origin is allowed.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|m| m.matches(origin))
    }
}
