//! Route tables: which route a request takes and what is done to it on the way.
//!
//! A [`RouteTable`] is a compiled `RouteConfiguration`: virtual hosts by domain, and in each of them routes in order, the
//! first that matches wins. [`RouteTable::find`] gives the [`Route`]; its [`Action`] says what to do.

mod action;
mod fault;
mod format;
mod header_ops;
mod matching;
mod retry;
mod rewrite;
mod table;
mod weighted;

pub use self::action::{
    Action, Clusters, Destination, DirectResponse, Forward, ForwardTimeouts, HeaderEdits, Redirect,
    RedirectPath,
};
pub use self::fault::{Cors, Fault, FaultAbort, FaultDelay, Fraction};
pub use self::format::{FormatContext, FormatError, JsonField, LogFormat, Template};
pub use self::header_ops::{AppendAction, HeaderOp, HeaderOps};
pub(crate) use self::matching::is_grpc;
pub use self::matching::{HeaderKey, HeaderMatch, HeaderTest, PathMatch, QueryMatch, RouteMatch};
pub use self::retry::{BackOff, RetryOn, RetryPolicy};
pub use self::rewrite::{PathRewrite, RegexRewrite};
pub use self::table::{Route, RouteTable, RouteTableError, VirtualHost};
pub use self::weighted::Weighted;

use waymark_engine::Head;

/// What route matching and format strings look at in a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Method.
    pub method: &'a str,
    /// Path with query, after normalization.
    pub path: &'a str,
    /// `:authority` or `Host`; empty when there is none.
    pub authority: &'a str,
    /// `:scheme` as the request carried it or `x-forwarded-proto` says; `http` inside a tunnel.
    pub scheme: &'a str,
    /// All other headers.
    pub headers: &'a Head,
}

impl<'a> RequestHead<'a> {
    /// The path without query.
    #[must_use]
    pub fn path_only(&self) -> &'a str {
        split_query(self.path).0
    }

    /// The query, without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        split_query(self.path).1
    }
}

/// `/a?b` is `/a` and `b`.
pub(crate) fn split_query(path: &str) -> (&str, Option<&str>) {
    match path.split_once('?') {
        None => (path, None),
        Some((path, query)) => (path, Some(query)),
    }
}
