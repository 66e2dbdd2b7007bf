//! Response flags.

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a response is not the upstream's own, as Envoy abbreviates it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ResponseFlag {
            $($(#[$doc])* $name,)*
        }

        impl ResponseFlag {
            /// Every flag.
            pub const ALL: &[ResponseFlag] = &[$(ResponseFlag::$name),*];

            /// As printed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(ResponseFlag::$name => stringify!($name),)*
                }
            }
        }
    };
}

flags! {
    /// No healthy upstream.
    UH,
    /// Upstream connection failure.
    UF,
    /// Upstream overflow.
    UO,
    /// No route, no chain.
    NR,
    /// No cluster.
    NC,
    /// Retry limit.
    URX,
    /// Upstream request timeout.
    UT,
    /// Upstream connection termination.
    UC,
    /// Upstream remote reset.
    UR,
    /// Upstream protocol error.
    UPE,
    /// Local reset.
    LR,
    /// Downstream connection termination.
    DC,
    /// Downstream protocol error.
    DPE,
    /// Downstream remote reset.
    DR,
    /// Delay injected.
    DI,
    /// Fault injected.
    FI,
    /// Rate limited.
    RL,
    /// External authorization.
    UAEX,
    /// Stream idle.
    SI,
    /// Maximum duration.
    DT,
    /// Maximum duration of an upstream stream.
    UMSDR,
    /// Overload manager.
    OM,
    /// DNS resolution failed.
    DF,
}

/// The flags of one request, in the order recorded; at most four, more are not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResponseFlags([Option<ResponseFlag>; 4]);

impl ResponseFlags {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Records a flag, once.
    pub fn add(&mut self, flag: ResponseFlag) {
        if self.contains(flag) {
            return;
        }
        if let Some(free) = self.0.iter_mut().find(|f| f.is_none()) {
            *free = Some(flag);
        }
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, flag: ResponseFlag) -> Self {
        self.add(flag);
        self
    }

    /// Whether it is recorded.
    #[must_use]
    pub fn contains(self, flag: ResponseFlag) -> bool {
        self.0.contains(&Some(flag))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0[0].is_none()
    }

    /// Those recorded.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        self.0.into_iter().flatten()
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::none().with(flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, flag) in self.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "," }, flag.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_in_the_order_recorded() {
        assert_eq!(ResponseFlags::none().to_string(), "-");
        let flags = ResponseFlags::from(ResponseFlag::URX)
            .with(ResponseFlag::UF)
            .with(ResponseFlag::URX);
        assert_eq!(flags.to_string(), "URX,UF");
    }
}
