//! The services of the well-known bookinfo sample, small and without dependencies of their own: `productpage`, `details`,
//! `reviews` (three versions) and `ratings`. They answer the same paths with the same JSON as the sample does, call each
//! other over the network, and know nothing of the mesh.
//!
//! A service finds another one by the variables that Kubernetes gives to every container
//! (`REVIEWS_SERVICE_HOST`, `REVIEWS_SERVICE_PORT`), else by its name and port 9080.
#![forbid(unsafe_code)]

mod client;
mod details;
mod page;
mod productpage;
mod ratings;
mod reviews;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use clap::{Parser, ValueEnum};

pub use crate::server::ServeError;

/// Which service of the sample to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// The web page; calls `details` and `reviews`.
    Productpage,
    /// Facts about a book.
    Details,
    /// Reviews; versions v2 and v3 call `ratings`.
    Reviews,
    /// Stars.
    Ratings,
}

/// Arguments of a sample service.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Which service to be.
    #[arg(value_enum)]
    pub service: Service,
    /// Its version: v1, v2 (black stars) or v3 (red stars) for reviews, v1 for the others.
    #[arg(long, default_value = "v1")]
    pub version: String,
    /// Address to listen on.
    #[arg(long, env = "WAYMARK_APP_IP", default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// Port to listen on.
    #[arg(long, env = "PORT", default_value_t = 9080)]
    pub port: u16,
    /// Address to call other services from: the pod's own.
    #[arg(long, env = "POD_IP")]
    pub source: Option<IpAddr>,
    /// Name shown in answers.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
}

/// Serves until `stop` completes, then finishes the requests under way.
///
/// # Errors
/// When the address can't be listened on.
pub async fn run(args: Args, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let address = SocketAddr::new(args.address, args.port);
    let client = client::Client::new(args.source);
    let handler: Arc<dyn server::Handler> = match args.service {
        Service::Details => Arc::new(details::Details),
        Service::Ratings => Arc::new(ratings::Ratings::default()),
        Service::Reviews => Arc::new(reviews::Reviews::new(&args.version, args.pod_name, client)),
        Service::Productpage => Arc::new(productpage::ProductPage::new(client)),
    };
    server::serve(address, handler, stop).await
}
