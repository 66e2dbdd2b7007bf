#![allow(clippy::unwrap_used, reason = "tests")]

use http::HeaderName;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use waymark_engine::{Field, Head};

use super::*;
use crate::program::{Pattern, StringMatch};
use crate::route::{
    DirectResponse, Fraction, HeaderKey, HeaderMatch, HeaderOps, HeaderTest, QueryMatch,
};

fn route(matches: RouteMatch) -> Route {
    Route {
        name: "".into(),
        matches,
        action: Action::Direct(DirectResponse {
            status: http::StatusCode::OK,
            body: bytes::Bytes::new(),
            response_headers: HeaderOps::default(),
        }),
        fault: None,
        cors: None,
        decorator: None,
        config: None,
        stat_prefix: None,
    }
}

const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/A",
    "/b",
    "/b/c/d",
    "/long/path",
];

fn path_match() -> impl Strategy<Value = PathMatch> {
    (select(PATHS), any::<bool>(), 0..4u8).prop_map(|(path, ignore_case, kind)| match kind {
        0 | 1 => PathMatch::Exact {
            path: path.into(),
            ignore_case: ignore_case && kind == 1,
        },
        2 => PathMatch::Prefix {
            prefix: path.into(),
            ignore_case,
        },
        _ if path.len() > 2 && !path.ends_with('/') => PathMatch::SeparatedPrefix {
            prefix: path.into(),
            ignore_case,
        },
        _ => PathMatch::Regex(Pattern::new(&format!("{path}.?")).unwrap()),
    })
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let header = (
        select(&["x", "y"][..]),
        select(&["1", "2"][..]),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, value, invert, missing_is_empty)| HeaderMatch {
            name: HeaderKey::Name(HeaderName::from_static(name)),
            test: HeaderTest::String(StringMatch::Exact {
                value: value.into(),
                ignore_case: false,
            }),
            invert,
            missing_is_empty,
        });
    let query = select(&["q", "r"][..]).prop_map(|name| QueryMatch {
        name: name.into(),
        value: None,
    });
    (
        path_match(),
        vec(header, 0..2),
        vec(query, 0..2),
        proptest::option::of(0..100u32),
    )
        .prop_map(|(path, headers, query, share)| RouteMatch {
            path,
            headers,
            query,
            grpc: false,
            share: share.map(|numerator| Fraction {
                numerator,
                denominator: 100,
            }),
        })
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_scan(
        matches in vec(route_match(), 0..24),
        path in select(PATHS),
        query in select(&["", "?q", "?r=1&q=2"][..]),
        header in proptest::option::of((select(&["x", "y"][..]), select(&["1", "2"][..]))),
        draw in 0..100u64,
    ) {
        let routes: Vec<_> = matches.into_iter().map(route).collect();
        let mut headers = Head::new();
        if let Some((name, value)) = header {
            headers.push(Field::new(name.as_bytes(), value.as_bytes()));
        }
        let target = format!("{path}{query}");
        let head = RequestHead {
            method: "GET", path: &target, authority: "h", scheme: "http", headers: &headers,
        };
        let naive = routes.iter().position(|r| r.matches.matches(&head, path, &mut || draw));
        let host = VirtualHost::new("v".into(), vec!["*".into()], routes);
        let table = RouteTable::new("t".into(), vec![host]).unwrap();
        let found = table.find(&head, &mut || draw);
        let routes = table.hosts()[0].routes();
        prop_assert_eq!(found.map(|f| routes.iter().position(|r| std::ptr::eq(r, f))), naive.map(Some));
    }
}

#[test]
fn the_most_specific_domain_wins() {
    let host = |domain: &str| {
        VirtualHost::new(
            domain.into(),
            vec![domain.into()],
            vec![route(RouteMatch::any())],
        )
    };
    let hosts = [
        "*",
        "*.example.com",
        "*.b.example.com",
        "www.*",
        "a.example.com",
        "exact:80",
    ]
    .map(host);
    let table = RouteTable::new("t".into(), hosts.into()).unwrap();
    let headers = Head::new();
    let find = |authority: &str| {
        let head = RequestHead {
            method: "GET",
            path: "/",
            authority,
            scheme: "http",
            headers: &headers,
        };
        table.hosts()[table.domains.find(head.authority).unwrap()]
            .name()
            .to_string()
    };
    for (authority, want) in [
        ("a.example.com", "a.example.com"),
        ("A.Example.COM", "a.example.com"),
        ("x.example.com", "*.example.com"),
        ("x.b.example.com", "*.b.example.com"),
        (".example.com", "*"),
        ("www.example.com", "*.example.com"),
        ("www.org", "www.*"),
        ("exact", "*"),
        ("exact:80", "exact:80"),
        ("", "*"),
    ] {
        assert_eq!(find(authority), want, "{authority}");
    }
    let twice = RouteTable::new("t".into(), vec![host("A"), host("a")]).unwrap_err();
    assert_eq!(twice, RouteTableError::DomainTwice("a".into()));
    let inner = RouteTable::new("t".into(), vec![host("a*b")]).unwrap_err();
    assert_eq!(inner, RouteTableError::InnerWildcard("a*b".into()));
}

#[test]
fn conditions_hold_as_upstream_has_it() {
    let mut headers = Head::new();
    for (name, value) in [
        ("many", "1"),
        ("many", "2"),
        ("list", "1,2"),
        ("number", "-5"),
    ] {
        headers.push(Field::new(name.as_bytes(), value.as_bytes()));
    }
    let head = RequestHead {
        method: "GET",
        path: "/p?a=1&a=2&flag&enc=%20",
        authority: "h:80",
        scheme: "http",
        headers: &headers,
    };
    let exact = |value: &str| {
        HeaderTest::String(StringMatch::Exact {
            value: value.into(),
            ignore_case: false,
        })
    };
    let regex = |value: &str| HeaderTest::String(StringMatch::Regex(Pattern::new(value).unwrap()));
    for (name, test, invert, missing_is_empty, want) in [
        ("many", exact("2"), false, false, true),
        ("many", exact("1,2"), false, false, false),
        ("list", exact("1,2"), false, false, true),
        ("list", exact("1"), false, false, false),
        (":method", exact("GET"), false, false, true),
        (":method", exact("get"), false, false, false),
        (":authority", exact("h:80"), false, false, true),
        ("Host", exact("h:80"), false, false, true),
        (":path", regex("/p[?].*"), false, false, true),
        ("none", HeaderTest::Present, false, false, false),
        ("none", HeaderTest::Present, true, false, true),
        ("none", HeaderTest::Absent, false, false, true),
        // withoutHeaders: a missing header is an empty one.
        ("none", exact("x"), true, true, true),
        ("none", regex(".*"), true, true, false),
        // Without that, a missing header fulfils no test of its value.
        ("none", exact("x"), true, false, false),
        (
            "number",
            HeaderTest::Range { start: -5, end: 0 },
            false,
            false,
            true,
        ),
        (
            "number",
            HeaderTest::Range { start: 0, end: 5 },
            true,
            false,
            true,
        ),
    ] {
        let matcher = HeaderMatch {
            name: HeaderKey::parse(name).unwrap(),
            test,
            invert,
            missing_is_empty,
        };
        assert_eq!(matcher.matches(&head), want, "{matcher:?}");
    }
    let value = |v: &str| {
        Some(StringMatch::Exact {
            value: v.into(),
            ignore_case: false,
        })
    };
    for (name, value, want) in [
        ("a", value("1"), true),
        ("a", value("2"), false),
        ("flag", value(""), true),
        ("flag", None, true),
        ("enc", value(" "), false),
        ("enc", value("%20"), true),
        ("none", None, false),
    ] {
        let matcher = QueryMatch {
            name: name.into(),
            value,
        };
        assert_eq!(matcher.matches(head.query().unwrap()), want, "{matcher:?}");
    }
}
