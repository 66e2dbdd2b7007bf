//! The main job: the canary of reviews, over mTLS HBONE at every hop.

use std::net::SocketAddr;

use waymark_testkit::hbone::{Client, DialError, Issuer};
use waymark_testkit::http::Connection;
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;

use crate::{WAYPOINT, block_on, percent_v2, waymark};

#[test]
fn canary_splits_90_to_10_and_only_members_of_the_mesh_get_in() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let reviews = mesh.service("reviews");

        let counts = mesh.split(Some("productpage-v1"), reviews, 2000);
        let share = percent_v2(&counts);
        assert!(
            (7.0..=13.0).contains(&share),
            "share of v2: {share} % of {counts:?}"
        );
        assert!(!counts.contains_key("reviews-v3"), "{counts:?}");

        // A client outside the mesh gets the same canary.
        let counts = mesh.split(None, reviews, 1000);
        let share = percent_v2(&counts);
        assert!(
            (6.0..=14.0).contains(&share),
            "from outside: share of v2: {share} % of {counts:?}"
        );

        let admin = mesh.waypoint_admin(WAYPOINT);
        let hbone = SocketAddr::new(admin.ip(), 15008);
        plain_text_is_refused(hbone);
        plain_text_is_refused(SocketAddr::new(mesh.pod("reviews-v1"), 15008));
        for target in [hbone, SocketAddr::new(mesh.pod("reviews-v1"), 15008)] {
            foreigners_are_refused(&mesh, target, &reviews.to_string());
        }
    });
}

#[test]
fn the_product_page_shows_what_the_mesh_delivers() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let page = mesh.service("productpage");
        let answer = mesh.get(None, page, "/productpage?u=normal").unwrap();
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(answer.status, 200, "{text}");
        assert!(
            text.contains("The Comedy of Errors") && text.contains("Reviews served by"),
            "{text}"
        );
        assert!(!text.contains("Error fetching"), "{text}");
        // What a waypoint adds to an answer, and only a waypoint.
        let direct = mesh
            .get(
                Some("productpage-v1"),
                mesh.service("details"),
                "/details/0",
            )
            .unwrap();
        assert_eq!(direct.header("server"), None);
        let through = mesh
            .get(
                Some("productpage-v1"),
                mesh.service("reviews"),
                "/reviews/0",
            )
            .unwrap();
        assert_eq!(through.header("server"), Some("istio-envoy"));
        assert!(through.header("x-envoy-upstream-service-time").is_some());
    });
}

pub(crate) fn plain_text_is_refused(hbone: SocketAddr) {
    let mut connection = Connection::open(None, hbone).unwrap();
    let got = connection
        .raw(b"GET /reviews/0 HTTP/1.1\r\nhost: reviews\r\n\r\n", 4096)
        .unwrap();
    // A TLS alert record (21) at most, never HTTP.
    assert!(
        got.is_empty() || got[0] == 21,
        "{:?}",
        String::from_utf8_lossy(&got)
    );
}

pub(crate) fn foreigners_are_refused(mesh: &Mesh, hbone: SocketAddr, authority: &str) {
    let of_mesh = Issuer::of_mesh(mesh.state());
    let foreign_domain =
        of_mesh.leaf("spiffe://elsewhere.example/ns/default/sa/bookinfo-productpage");
    let foreign_ca =
        Issuer::unknown().leaf("spiffe://cluster.local/ns/default/sa/bookinfo-productpage");
    for (what, leaf) in [
        ("trust domain", Some(&foreign_domain)),
        ("CA", Some(&foreign_ca)),
        ("no certificate", None),
    ] {
        let result: Result<Vec<u8>, DialError> = block_on(async {
            let mut client = Client::connect(None, hbone, leaf).await?;
            client
                .exchange(
                    authority,
                    &[],
                    b"GET /reviews/0 HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n",
                )
                .await
        });
        let error = result.expect_err(what);
        assert!(
            matches!(error, DialError::Connect(..) | DialError::H2(_)),
            "{what}: {error:?}"
        );
    }
}
