//! What a stream carries.

use waymark_engine::Field;

use super::*;
use crate::Io;

#[test]
fn bytes_go_both_ways_and_each_way_has_its_own_end() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        put_all(&mut ours, b"question").await.unwrap();
        finish(&mut ours).await.unwrap();
        assert_eq!(all(&mut theirs).await, b"question");
        assert!(theirs.is_read());
        put_all(&mut theirs, b"answer").await.unwrap();
        expect(&mut ours, b"answer").await;
        put_all(&mut theirs, b" and more").await.unwrap();
        finish(&mut theirs).await.unwrap();
        assert_eq!(all(&mut ours).await, b" and more");
        assert_eq!((ours.failure(), theirs.failure()), (None, None));
        let late = put_all(&mut ours, b"x").await.unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn the_server_may_end_first() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        put_all(&mut theirs, b"greeting").await.unwrap();
        finish(&mut theirs).await.unwrap();
        assert_eq!(all(&mut ours).await, b"greeting");
        put_all(&mut ours, b"still here").await.unwrap();
        finish(&mut ours).await.unwrap();
        assert_eq!(all(&mut theirs).await, b"still here");
    });
}

#[test]
fn requests_responses_and_trailers_arrive_as_they_were_sent() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let mut head = Head::request(b"POST");
        head.set_scheme(b"http");
        head.set_authority(b"reviews:9080");
        head.set_path(b"/r");
        head.push(Field::new(b"te", b"trailers"));
        let mut ours = client.open(head.wire_fields(), End::No).unwrap();
        put_all(&mut ours, b"body").await.unwrap();
        let mut trailers = Head::new();
        trailers.push(Field::new(b"x-sum", b"1"));
        ours.send_trailers(trailers.wire_fields()).unwrap();

        let mut request = server.accept().await.unwrap();
        assert_eq!(request.head.path(), Some(b"/r".as_slice()));
        assert!(!request.end);
        let theirs = &mut request.stream;
        assert_eq!(all(theirs).await, b"body");
        assert_eq!(
            theirs.take_trailers().unwrap().get(b"x-sum"),
            Some(b"1".as_slice())
        );
        let hints = Head::response(103);
        theirs.send_response(hints.wire_fields(), End::No).unwrap();
        ok(theirs, End::No);
        put_all(theirs, b"answer").await.unwrap();
        let mut trailers = Head::new();
        trailers.push(Field::new(b"grpc-status", b"0"));
        theirs.send_trailers(trailers.wire_fields()).unwrap();

        let informational = ours.response().await.unwrap();
        assert_eq!(
            (informational.head.status(), informational.end),
            (Some(103), false)
        );
        let response = ours.response().await.unwrap();
        assert_eq!((response.head.status(), response.end), (Some(200), false));
        assert_eq!(all(&mut ours).await, b"answer");
        let trailers = ours.take_trailers().unwrap();
        assert_eq!(trailers.get(b"grpc-status"), Some(b"0".as_slice()));
    });
}

#[test]
fn a_response_without_a_body_says_so() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let mut ours = tunnel(&client);
        let mut request = server.accept().await.unwrap();
        let refusal = Head::response(503);
        request
            .stream
            .send_response(refusal.wire_fields(), End::Yes)
            .unwrap();
        drop(request);
        let response = ours.response().await.unwrap();
        assert_eq!((response.head.status(), response.end), (Some(503), true));
        assert!(all(&mut ours).await.is_empty());
    });
}

#[test]
fn what_is_too_short_is_completed_without_being_consumed() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        // A part that is consumed, so that credit is owed when the rest fills the window.
        put_all(&mut ours, &[0; 60_000]).await.unwrap();
        expect(&mut theirs, &[0; 60_000]).await;
        let sender = crate::spawn("sender", async move {
            put_all(&mut ours, &[7; 100_000]).await.unwrap();
            finish(&mut ours).await.unwrap();
        });
        let mut have = 0;
        while have < 100_000 {
            let more =
                std::future::poll_fn(|cx| theirs.poll_fill_more(have, cx).map_ok(<[u8]>::len));
            let more = more.await.unwrap();
            assert!(more > have, "{more}");
            have = more;
        }
        sender.await.unwrap();
        assert_eq!(all(&mut theirs).await, [7; 100_000]);
    });
}
