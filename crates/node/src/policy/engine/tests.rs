//! hbone-and-l4.md 13.2, level by level.

use std::net::IpAddr;

use super::*;
use crate::fixture::{id, pod, store};
use crate::policy::{PolicyScope, ServiceAccountMatch};
use crate::state::Change;

fn matching(change: impl FnOnce(&mut Match)) -> Match {
    let mut m = Match::default();
    change(&mut m);
    m
}

fn rule(clauses: Vec<Vec<Match>>) -> Rule {
    Rule {
        clauses: clauses
            .into_iter()
            .map(|matches| Clause { matches })
            .collect(),
    }
}

fn policy(name: &str, action: PolicyAction, rules: Vec<Rule>) -> Policy {
    Policy {
        key: PolicyKey::new(name),
        scope: PolicyScope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

fn connection(identity: Option<&str>) -> Connection {
    Connection {
        source: "10.0.0.1".parse::<IpAddr>().unwrap(),
        identity: identity.map(|account| id("client-ns", account)),
        destination: "10.0.0.2:8080".parse().unwrap(),
    }
}

fn verdict(policies: Vec<Policy>, connection: &Connection) -> Verdict {
    let server = pod("server", "10.0.0.2");
    let store = store(
        std::iter::once(Change::from(server.clone())).chain(policies.into_iter().map(Change::from)),
    );
    check(&store, &server, connection)
}

fn matches(rules: Vec<Rule>, connection: &Connection) -> bool {
    match verdict(
        vec![policy("default/p", PolicyAction::Deny, rules)],
        connection,
    ) {
        Verdict::DeniedBy(_) => true,
        Verdict::Allowed => false,
        other => panic!("{other:?}"),
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

#[test]
fn empty_lists_mean_what_the_spec_says() {
    let connection = connection(Some("a"));
    let port = || matching(|m| m.destination_ports = vec![8080]);
    for (what, rules, want) in [
        ("no rule", vec![], false),
        ("rule without clauses", vec![rule(vec![])], true),
        ("clause without matches", vec![rule(vec![vec![]])], true),
        (
            "only empty matches",
            vec![rule(vec![vec![Match::default()]])],
            false,
        ),
        (
            "an empty match is skipped",
            vec![rule(vec![vec![Match::default(), port()]])],
            true,
        ),
        (
            "clauses are joined by and",
            vec![rule(vec![vec![port()], vec![Match::default()]])],
            false,
        ),
        (
            "rules are joined by or",
            vec![rule(vec![vec![Match::default()]]), rule(vec![vec![port()]])],
            true,
        ),
    ] {
        assert_eq!(matches(rules, &connection), want, "{what}");
    }
}

#[test]
fn attributes_match_as_the_spec_says() {
    let with = connection(Some("a"));
    let without = connection(None);
    let account = |name: &str| {
        vec![ServiceAccountMatch {
            namespace: "client-ns".into(),
            service_account: name.into(),
        }]
    };
    let principal = exact("cluster.local/ns/client-ns/sa/a");
    type Change = Box<dyn Fn(&mut Match)>;
    let cases: Vec<(&str, Change, bool, bool)> = vec![
        // what, match, with identity, without
        (
            "principal",
            Box::new(move |m| m.principals = vec![principal.clone()]),
            true,
            false,
        ),
        (
            "principal with scheme",
            Box::new(|m| m.principals = vec![exact("spiffe://cluster.local/ns/client-ns/sa/a")]),
            false,
            false,
        ),
        (
            "prefix",
            Box::new(|m| {
                m.principals = vec![StringMatch::Prefix("cluster.local/ns/client".into())]
            }),
            true,
            false,
        ),
        (
            "suffix",
            Box::new(|m| m.principals = vec![StringMatch::Suffix("/sa/a".into())]),
            true,
            false,
        ),
        (
            "presence",
            Box::new(|m| m.principals = vec![StringMatch::Presence]),
            true,
            false,
        ),
        (
            "not presence",
            Box::new(|m| m.not_principals = vec![StringMatch::Presence]),
            false,
            true,
        ),
        (
            "not principal",
            Box::new(|m| m.not_principals = vec![exact("x")]),
            true,
            true,
        ),
        (
            "namespace",
            Box::new(|m| m.namespaces = vec![exact("client-ns")]),
            true,
            false,
        ),
        (
            "not namespace",
            Box::new(|m| m.not_namespaces = vec![exact("client-ns")]),
            false,
            true,
        ),
        (
            "account",
            Box::new(move |m| m.service_accounts = account("a")),
            true,
            false,
        ),
        (
            "not account",
            Box::new(move |m| m.not_service_accounts = account("a")),
            false,
            true,
        ),
        (
            "source",
            Box::new(|m| m.source_ips = vec!["10.0.0.0/24".parse().unwrap()]),
            true,
            true,
        ),
        (
            "not source",
            Box::new(|m| m.not_source_ips = vec!["10.0.0.0/24".parse().unwrap()]),
            false,
            false,
        ),
        (
            "destination",
            Box::new(|m| m.destination_ips = vec!["10.0.0.3/32".parse().unwrap()]),
            false,
            false,
        ),
        (
            "not destination",
            Box::new(|m| m.not_destination_ips = vec!["10.0.0.3/32".parse().unwrap()]),
            true,
            true,
        ),
        (
            "port",
            Box::new(|m| m.destination_ports = vec![1, 8080]),
            true,
            true,
        ),
        (
            "not port",
            Box::new(|m| m.not_destination_ports = vec![8080]),
            false,
            false,
        ),
        (
            "and over attributes",
            Box::new(|m| {
                m.destination_ports = vec![8080];
                m.namespaces = vec![exact("elsewhere")];
            }),
            false,
            false,
        ),
    ];
    for (what, change, want_with, want_without) in cases {
        let rules = || vec![rule(vec![vec![matching(&change)]])];
        assert_eq!(matches(rules(), &with), want_with, "{what}, with identity");
        assert_eq!(
            matches(rules(), &without),
            want_without,
            "{what}, without identity"
        );
    }
}

#[test]
fn deny_comes_first_then_allow_then_the_absence_of_allow() {
    let any = || vec![rule(vec![])];
    let never = Vec::new;
    let connection = connection(Some("a"));
    let deny = |rules| policy("default/deny", PolicyAction::Deny, rules);
    let allow = |rules| policy("default/allow", PolicyAction::Allow, rules);
    assert_eq!(verdict(vec![], &connection), Verdict::Allowed);
    assert_eq!(verdict(vec![allow(any())], &connection), Verdict::Allowed);
    assert_eq!(
        verdict(vec![allow(never())], &connection),
        Verdict::NotAllowed
    );
    assert_eq!(verdict(vec![deny(never())], &connection), Verdict::Allowed);
    let denied = Verdict::DeniedBy(PolicyKey::new("default/deny"));
    assert_eq!(
        verdict(vec![deny(any()), allow(any())], &connection),
        denied
    );
}

#[test]
fn dry_run_policies_decide_nothing() {
    let dry = |name: &str, action, rules| Policy {
        dry_run: true,
        ..policy(name, action, rules)
    };
    let connection = connection(None);
    let policies = vec![
        dry("default/deny", PolicyAction::Deny, vec![rule(vec![])]),
        dry("default/allow", PolicyAction::Allow, vec![]),
    ];
    assert_eq!(verdict(policies, &connection), Verdict::Allowed);
}

#[test]
fn scopes_decide_whom_a_policy_is_for() {
    let deny = |key: &str, scope| Policy {
        scope,
        ..policy(key, PolicyAction::Deny, vec![rule(vec![])])
    };
    let connection = connection(None);
    let judge = |policy: Policy, named: bool| {
        let mut server = pod("server", "10.0.0.2");
        if named {
            server.authorization_policies = vec![policy.key.as_str().into()];
        }
        let store = store([Change::from(server.clone()), policy.into()]);
        check(&store, &server, &connection) != Verdict::Allowed
    };
    assert!(judge(deny("root/p", PolicyScope::Global), false));
    assert!(judge(deny("default/p", PolicyScope::Namespace), false));
    assert!(!judge(deny("other/p", PolicyScope::Namespace), false));
    assert!(!judge(
        deny("default/p", PolicyScope::WorkloadSelector),
        false
    ));
    assert!(judge(
        deny("default/p", PolicyScope::WorkloadSelector),
        true
    ));
    assert!(
        !judge(deny("other/p", PolicyScope::Namespace), true),
        "its scope alone decides"
    );
}

#[test]
fn a_named_policy_that_is_not_there_yet_is_not_passed_by() {
    let mut server = pod("server", "10.0.0.2");
    server.authorization_policies = vec!["default/late".into()];
    let store = store([Change::from(server.clone())]);
    assert_eq!(
        check(&store, &server, &connection(Some("a"))),
        Verdict::Unknown(PolicyKey::new("default/late"))
    );
}

#[test]
fn a_detour_is_judged_by_deny_policies_alone() {
    let server = pod("server", "10.0.0.2");
    let strict = Policy {
        rules: vec![rule(vec![vec![matching(|m| {
            m.not_principals = vec![StringMatch::Presence]
        })]])],
        ..policy("default/strict", PolicyAction::Deny, vec![])
    };
    let only_waypoint = policy("default/allow", PolicyAction::Allow, vec![]);
    let store = store([
        Change::from(server.clone()),
        strict.into(),
        only_waypoint.into(),
    ]);
    assert_eq!(
        check_deny(&store, &server, &connection(Some("a"))),
        Verdict::Allowed
    );
    let denied = Verdict::DeniedBy(PolicyKey::new("default/strict"));
    assert_eq!(check_deny(&store, &server, &connection(None)), denied);
}
