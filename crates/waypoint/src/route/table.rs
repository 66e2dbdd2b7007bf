//! Route configurations.

use std::collections::HashMap;
use std::sync::Arc;

use crate::route::{Action, Cors, Fault, PathMatch, RequestHead, RouteMatch};

/// A route configuration, compiled.
#[derive(Debug, Default)]
pub struct RouteTable {
    name: Arc<str>,
    hosts: Vec<VirtualHost>,
    domains: Domains,
}

/// Domains of all virtual hosts, lower case, to index.
#[derive(Debug, Default)]
struct Domains {
    exact: HashMap<Box<str>, usize>,
    /// `*.example.com` as `.example.com`, longest first.
    suffix: Vec<(Box<str>, usize)>,
    /// `example.*` as `example.`, longest first.
    prefix: Vec<(Box<str>, usize)>,
    any: Option<usize>,
}

/// A virtual host, compiled.
#[derive(Debug, Default)]
pub struct VirtualHost {
    name: Arc<str>,
    domains: Vec<Box<str>>,
    routes: Vec<Route>,
    /// Routes by exact path; used where there are enough routes for it to pay.
    index: Option<ExactIndex>,
}

#[derive(Debug)]
struct ExactIndex {
    /// Indices in order.
    by_path: HashMap<Box<str>, Vec<usize>>,
    /// Routes that do not match one exact path, in order.
    others: Vec<usize>,
}

/// A route, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Its conditions.
    pub matches: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Faults injected.
    pub fault: Option<Fault>,
    /// CORS.
    pub cors: Option<Cors>,
    /// Name of its spans, and value of `x-envoy-decorator-operation` on responses.
    pub decorator: Option<Arc<str>>,
    /// `metadata.istio.config`: where it was written.
    pub config: Option<Arc<str>>,
    /// Prefix of its own statistics.
    pub stat_prefix: Option<Arc<str>>,
}

/// A table that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteTableError {
    /// Two virtual hosts claim a domain.
    #[error("domain {0:?} is in two virtual hosts")]
    DomainTwice(String),
    /// A domain with a `*` that is neither its first nor its last character.
    #[error("domain {0:?} has a wildcard inside")]
    InnerWildcard(String),
}

/// Below that number of routes a scan is as fast as the index.
const INDEX_FROM: usize = 8;

impl RouteTable {
    /// Compiles a table.
    ///
    /// # Errors
    /// When domains clash or are none.
    pub fn new(name: Arc<str>, hosts: Vec<VirtualHost>) -> Result<Self, RouteTableError> {
        let mut domains = Domains::default();
        for (at, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                domains.add(&domain.to_ascii_lowercase(), at)?;
            }
        }
        domains
            .suffix
            .sort_by_key(|(d, _)| std::cmp::Reverse(d.len()));
        domains
            .prefix
            .sort_by_key(|(d, _)| std::cmp::Reverse(d.len()));
        Ok(Self {
            name,
            hosts,
            domains,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its virtual hosts.
    #[must_use]
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }

    /// The route that a request takes: of the virtual host that its authority belongs to, the first that matches.
    ///
    /// `random` is asked where a route is for a share of requests only. `None`: 404, flag `NR`.
    #[must_use]
    pub fn find(&self, head: &RequestHead<'_>, random: &mut impl FnMut() -> u64) -> Option<&Route> {
        self.hosts[self.domains.find(head.authority)?].find(head, random)
    }
}

impl Domains {
    fn add(&mut self, domain: &str, at: usize) -> Result<(), RouteTableError> {
        let twice = |there: bool| {
            if there {
                Err(RouteTableError::DomainTwice(domain.to_owned()))
            } else {
                Ok(())
            }
        };
        let inner = |part: &str| match part.contains('*') {
            true => Err(RouteTableError::InnerWildcard(domain.to_owned())),
            false => Ok(()),
        };
        if domain == "*" {
            twice(self.any.replace(at).is_some())
        } else if let Some(suffix) = domain.strip_prefix('*') {
            inner(suffix)?;
            twice(self.suffix.iter().any(|(d, _)| **d == *suffix))?;
            self.suffix.push((suffix.into(), at));
            Ok(())
        } else if let Some(prefix) = domain.strip_suffix('*') {
            inner(prefix)?;
            twice(self.prefix.iter().any(|(d, _)| **d == *prefix))?;
            self.prefix.push((prefix.into(), at));
            Ok(())
        } else {
            inner(domain)?;
            twice(self.exact.insert(domain.into(), at).is_some())
        }
    }

    /// Exact, then the longest `*suffix`, then the longest `prefix*`, then `*`.
    fn find(&self, authority: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffix.is_empty() && self.prefix.is_empty() {
            return self.any;
        }
        let host = authority.to_ascii_lowercase();
        let suffix = || {
            self.suffix
                .iter()
                .find(|(d, _)| host.len() > d.len() && host.ends_with(&**d))
        };
        let prefix = || {
            self.prefix
                .iter()
                .find(|(d, _)| host.len() > d.len() && host.starts_with(&**d))
        };
        let exact = self.exact.get(host.as_str()).copied();
        exact
            .or_else(|| suffix().or_else(prefix).map(|(_, at)| *at))
            .or(self.any)
    }
}

impl VirtualHost {
    /// Compiles a virtual host.
    #[must_use]
    pub fn new(name: Arc<str>, domains: Vec<Box<str>>, routes: Vec<Route>) -> Self {
        let index = (routes.len() >= INDEX_FROM).then(|| ExactIndex::new(&routes));
        Self {
            name,
            domains,
            routes,
            index,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its domains, as written.
    #[must_use]
    pub fn domains(&self) -> &[Box<str>] {
        &self.domains
    }

    /// Its routes, in order.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn find(&self, head: &RequestHead<'_>, random: &mut impl FnMut() -> u64) -> Option<&Route> {
        let path = head.path_only();
        match &self.index {
            None => self
                .routes
                .iter()
                .find(|r| r.matches.matches(head, path, random)),
            Some(index) => {
                let at = index
                    .candidates(path)
                    .find(|at| self.routes[*at].matches.matches(head, path, random));
                at.map(|at| &self.routes[at])
            }
        }
    }
}

impl ExactIndex {
    fn new(routes: &[Route]) -> Self {
        let mut by_path: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        let mut others = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            match &route.matches.path {
                PathMatch::Exact {
                    path,
                    ignore_case: false,
                } => by_path.entry(path.clone()).or_default().push(at),
                PathMatch::Exact { .. }
                | PathMatch::Prefix { .. }
                | PathMatch::SeparatedPrefix { .. }
                | PathMatch::Regex(_) => others.push(at),
            }
        }
        Self { by_path, others }
    }

    /// Both lists merged in order.
    fn candidates<'a>(&'a self, path: &str) -> impl Iterator<Item = usize> + 'a {
        let exact = self.by_path.get(path).map_or(&[][..], Vec::as_slice);
        let (mut exact, mut others) = (
            exact.iter().copied().peekable(),
            self.others.iter().copied().peekable(),
        );
        std::iter::from_fn(move || match (exact.peek(), others.peek()) {
            (Some(a), Some(b)) if a < b => exact.next(),
            (Some(_), None) => exact.next(),
            _ => others.next(),
        })
    }
}

#[cfg(test)]
mod tests;
