//! The tree that chooses a filter chain. The names of its inputs are read by operators' tools.

use std::collections::BTreeMap;

use waymark_proto::ip_matcher::{IpMatcher, ip_matcher::IpRangeMatcher};

use ipnet::IpNet;

use super::wire::{
    ext::matching::common_inputs::network::v3 as inputs, protobuf, u32_value, xds, xds_extension,
};
use xds::r#type::matcher::v3::{
    Matcher,
    matcher::{
        MatcherTree, MatcherType, OnMatch,
        matcher_tree::{MatchMap, TreeType},
        on_match,
    },
};

/// What a port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Always this chain.
    Chain(String),
    /// What the connection's first bytes say.
    ByProtocol {
        /// Chain of HTTP/1.1 and of HTTP/2 without TLS.
        http: String,
        /// Chain of everything else.
        tcp: String,
    },
}

/// By destination address. Ranges may be none, the addresses of one not.
pub(super) fn address_tree(ranges: impl Iterator<Item = (Vec<IpNet>, Matcher)>) -> Matcher {
    let range_matchers = ranges
        .map(|(vips, then)| IpRangeMatcher {
            ranges: vips
                .iter()
                .map(|vip| xds::core::v3::CidrRange {
                    address_prefix: vip.addr().to_string(),
                    prefix_len: Some(u32_value(u32::from(vip.prefix_len()))),
                })
                .collect(),
            on_match: Some(on_match(on_match::OnMatch::Matcher(Box::new(then)))),
            exclusive: false,
        })
        .collect();
    tree(
        xds_extension("ip", &inputs::DestinationIpInput {}),
        TreeType::CustomMatch(xds_extension("ip", &IpMatcher { range_matchers })),
    )
}

/// By destination port.
pub(super) fn port_tree(ports: BTreeMap<u16, Target>) -> Matcher {
    let map = ports.into_iter().map(|(port, target)| {
        let then = match target {
            Target::Chain(name) => chain(&name),
            Target::ByProtocol { http, tcp } => {
                on_match::OnMatch::Matcher(Box::new(protocol_tree(&http, &tcp)))
            }
        };
        (port.to_string(), on_match(then))
    });
    tree(
        xds_extension("port", &inputs::DestinationPortInput {}),
        TreeType::ExactMatchMap(MatchMap { map: map.collect() }),
    )
}

/// By the protocol that was recognised. The quotes are part of the input's value.
pub(super) fn protocol_tree(http: &str, tcp: &str) -> Matcher {
    let map = ["'h2c'", "'http/1.1'"]
        .into_iter()
        .map(|protocol| (protocol.to_owned(), on_match(chain(http))));
    let mut matcher = tree(
        xds_extension("application-protocol", &inputs::ApplicationProtocolInput {}),
        TreeType::ExactMatchMap(MatchMap { map: map.collect() }),
    );
    matcher.on_no_match = Some(Box::new(on_match(chain(tcp))));
    matcher
}

fn tree(input: xds::core::v3::TypedExtensionConfig, kind: TreeType) -> Matcher {
    Matcher {
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree {
            input: Some(input),
            tree_type: Some(kind),
        })),
        on_no_match: None,
    }
}

fn chain(name: &str) -> on_match::OnMatch {
    let value = protobuf::StringValue {
        value: name.to_owned(),
    };
    on_match::OnMatch::Action(xds_extension(name, &value))
}

fn on_match(then: on_match::OnMatch) -> OnMatch {
    OnMatch {
        keep_matching: false,
        on_match: Some(then),
    }
}
