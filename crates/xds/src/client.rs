//! The client: [`AdsClient`] is the protocol without I/O, [`run`] drives it over tonic.

mod ads;
mod backoff;
mod driver;
mod subscriptions;

pub use ads::{AdsClient, Handler, NackReason, Rejection, Update};
pub use backoff::Backoff;
pub use driver::{ClientOptions, ClientState, Credentials, CredentialsError, NoCredentials, run};
pub use subscriptions::Subscriptions;

#[cfg(test)]
mod tests;
