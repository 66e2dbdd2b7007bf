//! `waymark run agent`: stands beside one Envoy and makes a waypoint of it, as istio's pilot-agent does.
//!
//! ```text
//!                       +------------------- agent -------------------+
//! control plane  <=TLS= | CSR --> certificate --> SDS  <dir>/socket   | <-- Envoy (a child process)
//!   (CA, xDS)    <=TLS= | token -----------> ADS relay <dir>/XDS      | <-- 15000 admin, 15008 HBONE,
//!                       | 15020 readiness, metrics, drain             | <-- 15021 readiness, 15090 metrics
//!                       +---------------------------------------------+
//! ```
//!
//! The private key goes to Envoy over a Unix socket that only this user can open, and nowhere else; the bearer token
//! stays in the agent.
#![forbid(unsafe_code)]

mod args;
mod bootstrap;
mod directory;
mod envoy;
mod relay;
mod run;
mod sds;
mod secrets;
mod status;

pub use args::{Args, Settings, SettingsError};
pub use bootstrap::bootstrap;
pub use run::{RunError, run};
