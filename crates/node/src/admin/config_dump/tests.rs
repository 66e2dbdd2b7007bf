use super::*;

#[test]
fn serial_numbers_are_decimal() {
    for (hex, want) in [
        ("", "0"),
        ("00", "0"),
        ("ff", "255"),
        ("3b9aca00", "1000000000"),
        (
            "ffffffffffffffffffffffffffffffff",
            "340282366920938463463374607431768211455",
        ),
    ] {
        assert_eq!(decimal(hex), want);
    }
}

#[test]
fn a_workload_has_ztunnels_keys() {
    let mut pod = crate::fixture::pod("reviews", "127.244.0.2")
        .serving("s", &[(80, 8080)])
        .behind("wp");
    pod.extension.probe_ports = vec![8080];
    insta::assert_json_snapshot!(workload(&pod));
}

#[test]
fn a_service_has_ztunnels_keys() {
    let mut s = crate::fixture::service("s", Some("127.96.0.1"), &[(80, 8080)]).behind("wp");
    s.enforcement = Some(Enforcement::Require);
    let store = crate::fixture::store([
        s.clone().into(),
        crate::fixture::pod("a", "127.244.0.2")
            .serving("s", &[(80, 8080)])
            .into(),
    ]);
    insta::assert_json_snapshot!(service(&store, &s));
}
