//! `main_internal`'s matcher tree to [`Destinations`].
//!
//! Read is the tree that control planes send: destination IP, then destination port, then application protocol, with the
//! last two optional.

use std::collections::{BTreeMap, HashMap};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::listener::v3 as listener;
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::envoy::xds::core::v3::TypedExtensionConfig;
use waymark_proto::envoy::xds::r#type::matcher::v3 as pb;
use waymark_proto::ip_matcher::IpMatcher;
use waymark_proto::type_url;

use super::DecodeError;
use super::at::{At, unsupported};
use super::values::{range, u32_value, unpack};
use crate::program::{ChainId, Destinations, DestinationsBuilder, Target};

/// Ports for which a connection's first bytes are not looked at.
pub(super) struct Inspection {
    /// No inspector at all.
    pub(super) absent: bool,
    /// By port.
    pub(super) disabled: Option<listener::ListenerFilterChainMatchPredicate>,
}

/// Ports that an inspector leaves out of a range of any ports, at most.
const MAX_DISABLED_PORTS: usize = 4096;

/// What a matcher tree is read with.
pub(super) struct Tree<'c> {
    pub(super) chains: &'c HashMap<String, ChainId>,
    pub(super) inspection: Inspection,
}

type Ports = Vec<(Option<u16>, Target)>;

impl Tree<'_> {
    pub(super) fn decode(
        &self,
        at: At<'_>,
        message: pb::Matcher,
    ) -> Result<Destinations, DecodeError> {
        let pb::Matcher {
            on_no_match,
            matcher_type,
        } = message;
        let mut out = DestinationsBuilder::default();
        let at_tree = at.field("matcher_tree");
        let Some(pb::matcher::MatcherType::MatcherTree(tree)) = matcher_type else {
            return Err(at.error("must be a matcher_tree by destination IP"));
        };
        let pb::matcher::MatcherTree { input, tree_type } = tree;
        input_is(
            at_tree.field("input"),
            input.as_ref(),
            type_url::DESTINATION_IP_INPUT,
        )?;
        let Some(pb::matcher::matcher_tree::TreeType::CustomMatch(custom)) = tree_type else {
            return Err(at_tree.error("must be a custom_match: an IPMatcher"));
        };
        let custom_at = at_tree.field("custom_match");
        let custom_at = custom_at.field("typed_config");
        let ips: IpMatcher = unpack(
            custom_at,
            custom
                .typed_config
                .as_ref()
                .ok_or_else(|| custom_at.missing())?,
        )?;
        for (i, one) in ips.range_matchers.into_iter().enumerate() {
            let at = custom_at.index("range_matchers", i);
            if one.ranges.is_empty() {
                return Err(at.field("ranges").missing());
            }
            let mut ranges = Vec::with_capacity(one.ranges.len());
            for (i, cidr) in one.ranges.iter().enumerate() {
                ranges.push(range(
                    at.index("ranges", i),
                    &cidr.address_prefix,
                    u32_value(cidr.prefix_len),
                )?);
            }
            let on_match = at.field("on_match");
            let ports = self.ports(on_match, one.on_match.ok_or_else(|| on_match.missing())?)?;
            out.add(&ranges, one.exclusive, &ports);
        }
        if let Some(on_no_match) = on_no_match {
            let everything: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
            out.add(
                &everything,
                false,
                &self.ports(at.field("on_no_match"), *on_no_match)?,
            );
        }
        Ok(out.build())
    }

    /// What a range leads to: by port, by protocol, or one chain.
    fn ports(&self, at: At<'_>, message: pb::matcher::OnMatch) -> Result<Ports, DecodeError> {
        let matcher = match on_match(at, message)? {
            OnMatch::Chain(name) => {
                return self
                    .chain(at.field("action"), &name)
                    .map(|id| vec![(None, Target::Chain(id))]);
            }
            OnMatch::Matcher(matcher) => matcher,
        };
        let at = at.field("matcher");
        let (tree, on_no_match) = exact_map(at, matcher)?;
        if tree.input != type_url::DESTINATION_PORT_INPUT {
            let target = self.protocols(at, tree, on_no_match)?;
            return self.inspected_everywhere(at, target);
        }
        let map_at = at.field("matcher_tree");
        let map_at = map_at.field("exact_match_map");
        let mut ports = Vec::with_capacity(tree.map.len() + 1);
        for (key, value) in tree.map {
            let at = map_at.key("map", &key);
            let port: u16 = key
                .parse()
                .map_err(|_| at.error(format!("{key:?} is not a port")))?;
            ports.push((
                Some(port),
                self.inspected(at, port, self.target(at, value)?)?,
            ));
        }
        if let Some(other) = on_no_match {
            let at = at.field("on_no_match");
            let target = self.target(at, other)?;
            ports.extend(self.inspected_everywhere(at, target)?);
        }
        Ok(ports)
    }

    fn target(&self, at: At<'_>, message: pb::matcher::OnMatch) -> Result<Target, DecodeError> {
        match on_match(at, message)? {
            OnMatch::Chain(name) => self.chain(at.field("action"), &name).map(Target::Chain),
            OnMatch::Matcher(matcher) => {
                let at = at.field("matcher");
                let (tree, on_no_match) = exact_map(at, matcher)?;
                self.protocols(at, tree, on_no_match)
            }
        }
    }

    /// A choice by application protocol.
    fn protocols(
        &self,
        at: At<'_>,
        tree: ExactMap,
        on_no_match: Option<pb::matcher::OnMatch>,
    ) -> Result<Target, DecodeError> {
        let tree_at = at.field("matcher_tree");
        if tree.input != type_url::APPLICATION_PROTOCOL_INPUT {
            let why = format!("{} is not supported here", type_name(&tree.input));
            return Err(tree_at.field("input").error(why));
        }
        let (mut h2c, mut http11, mut http10) = (None, None, None);
        let map_at = tree_at.field("exact_match_map");
        for (key, value) in tree.map {
            let at = map_at.key("map", &key);
            let slot = match key.as_str() {
                "'h2c'" => &mut h2c,
                "'http/1.1'" => &mut http11,
                "'http/1.0'" => &mut http10,
                _ => {
                    return Err(at.error(
                        "is not a protocol that is recognized ('h2c', 'http/1.1', 'http/1.0')",
                    ));
                }
            };
            *slot = Some(self.leaf(at, value)?);
        }
        let other = on_no_match
            .map(|m| self.leaf(at.field("on_no_match"), m))
            .transpose()?;
        let or_other = |chain: Option<ChainId>| chain.or(other);
        Ok(Target::Sniff {
            h2c: or_other(h2c),
            http11: or_other(http11),
            http10: or_other(http10),
            other,
        })
    }

    fn leaf(&self, at: At<'_>, message: pb::matcher::OnMatch) -> Result<ChainId, DecodeError> {
        match on_match(at, message)? {
            OnMatch::Chain(name) => self.chain(at.field("action"), &name),
            OnMatch::Matcher(_) => Err(at.field("matcher").unsupported()),
        }
    }

    fn chain(&self, at: At<'_>, name: &str) -> Result<ChainId, DecodeError> {
        self.chains
            .get(name)
            .copied()
            .ok_or_else(|| at.error(format!("there is no filter chain named {name:?}")))
    }

    /// A port where nothing is inspected has no known protocol.
    fn inspected(&self, at: At<'_>, port: u16, target: Target) -> Result<Target, DecodeError> {
        let Target::Sniff { other, .. } = target else {
            return Ok(target);
        };
        let disabled = self.inspection.absent
            || self
                .inspection
                .disabled
                .as_ref()
                .is_some_and(|predicate| disables(predicate, port));
        if !disabled {
            return Ok(target);
        }
        let why = "is chosen by protocol, but nothing inspects its protocol and no chain is for unknown ones";
        other.map(Target::Chain).ok_or_else(|| at.error(why))
    }

    /// A target for any port: one row for all, and one for each port where nothing is inspected.
    fn inspected_everywhere(&self, at: At<'_>, target: Target) -> Result<Ports, DecodeError> {
        let Target::Sniff { other, .. } = target else {
            return Ok(vec![(None, target)]);
        };
        if self.inspection.absent {
            return Ok(vec![(None, self.inspected(at, 0, target)?)]);
        }
        let mut rows = vec![(None, target)];
        if let Some(predicate) = &self.inspection.disabled {
            for port in 1..=u16::MAX {
                if disables(predicate, port)
                    && let Some(other) = other
                {
                    rows.push((Some(port), Target::Chain(other)));
                }
            }
            if rows.len() > MAX_DISABLED_PORTS {
                return Err(at.error("is inspected on too few ports"));
            }
        }
        Ok(rows)
    }
}

enum OnMatch {
    /// An action: the name of a filter chain.
    Chain(String),
    Matcher(pb::Matcher),
}

fn on_match(at: At<'_>, message: pb::matcher::OnMatch) -> Result<OnMatch, DecodeError> {
    use pb::matcher::on_match::OnMatch as O;
    let pb::matcher::OnMatch {
        keep_matching,
        on_match,
    } = message;
    unsupported!(at; keep_matching);
    match on_match {
        Some(O::Matcher(matcher)) => Ok(OnMatch::Matcher(*matcher)),
        Some(O::Action(action)) => {
            let at = at.field("action");
            let config_at = at.field("typed_config");
            let any = action.typed_config.ok_or_else(|| config_at.missing())?;
            if any.type_url != type_url::STRING_VALUE {
                return Err(config_at.error("must be a StringValue: the name of a filter chain"));
            }
            let wkt::StringValue { value } = prost::Message::decode(any.value.as_slice())
                .map_err(|e| config_at.error(format!("is not the message it says it is: {e}")))?;
            Ok(OnMatch::Chain(value))
        }
        None => Err(at.error("has neither matcher nor action")),
    }
}

/// A tree with an exact match map.
struct ExactMap {
    input: String,
    /// In order of keys, so that errors are the same each time.
    map: BTreeMap<String, pb::matcher::OnMatch>,
}

fn exact_map(
    at: At<'_>,
    message: pb::Matcher,
) -> Result<(ExactMap, Option<pb::matcher::OnMatch>), DecodeError> {
    let pb::Matcher {
        on_no_match,
        matcher_type,
    } = message;
    let Some(pb::matcher::MatcherType::MatcherTree(tree)) = matcher_type else {
        return Err(at.error("must be a matcher_tree"));
    };
    let at = at.field("matcher_tree");
    let pb::matcher::MatcherTree { input, tree_type } = tree;
    let input = input
        .and_then(|i| i.typed_config)
        .ok_or_else(|| at.field("input").missing())?
        .type_url;
    match tree_type {
        Some(pb::matcher::matcher_tree::TreeType::ExactMatchMap(map)) => Ok((
            ExactMap {
                input,
                map: map.map.into_iter().collect(),
            },
            on_no_match.map(|m| *m),
        )),
        Some(pb::matcher::matcher_tree::TreeType::PrefixMatchMap(_)) => {
            Err(at.field("prefix_match_map").unsupported())
        }
        Some(pb::matcher::matcher_tree::TreeType::CustomMatch(_)) => {
            Err(at.field("custom_match").unsupported())
        }
        None => Err(at.field("exact_match_map").missing()),
    }
}

fn input_is(
    at: At<'_>,
    input: Option<&TypedExtensionConfig>,
    want: &str,
) -> Result<(), DecodeError> {
    let got = input
        .and_then(|i| i.typed_config.as_ref())
        .ok_or_else(|| at.missing())?;
    if got.type_url == want {
        return Ok(());
    }
    Err(at.error(format!(
        "{} is not supported here, only {}",
        type_name(&got.type_url),
        type_name(want)
    )))
}

/// Whether a predicate holds for a destination port.
fn disables(predicate: &listener::ListenerFilterChainMatchPredicate, port: u16) -> bool {
    use listener::listener_filter_chain_match_predicate::Rule as R;
    match &predicate.rule {
        Some(R::OrMatch(set)) => set.rules.iter().any(|p| disables(p, port)),
        Some(R::AndMatch(set)) => set.rules.iter().all(|p| disables(p, port)),
        Some(R::NotMatch(inner)) => !disables(inner, port),
        Some(R::AnyMatch(any)) => *any,
        Some(R::DestinationPortRange(range)) => {
            range.start <= i32::from(port) && i32::from(port) < range.end
        }
        None => false,
    }
}
