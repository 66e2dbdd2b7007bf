use super::super::{End, ErrorCode, Limits, Rate, Refusal, ResetBy};
use super::*;

const FEW: Rate = Rate {
    burst: 10,
    per_second: 5,
    per_work: 1,
};

fn strict() -> Config {
    Config {
        limits: Limits {
            resets: FEW,
            settings: FEW,
            pings: FEW,
            empty_frames: FEW,
            idle_frames: FEW,
            window_updates: FEW,
            ..Limits::default()
        },
        ..Config::default()
    }
}

#[test]
fn floods_end_the_connection_and_are_counted() {
    let priority = frame(kind::PRIORITY, 0, 7, &[0, 0, 0, 0, 1]);
    let cases: [(Refusal, Vec<u8>); 7] = [
        (Refusal::Settings, settings(&[(3, 100)])),
        (Refusal::Settings, frame(kind::SETTINGS, flag::ACK, 0, &[])),
        (Refusal::Pings, frame(kind::PING, 0, 0, &[0; 8])),
        (Refusal::EmptyFrames, frame(kind::DATA, 0, 1, &[])),
        (Refusal::IdleFrames, priority),
        (Refusal::IdleFrames, frame(0xfa, 0, 0, b"unknown")),
        (Refusal::WindowUpdates, window_update(0, 1)),
    ];
    for (refusal, frame) in cases {
        let mut bench = Bench::server(strict());
        bench.accept_tunnel(1);
        bench.repeat(8, &frame).unwrap();
        let error = bench.repeat(20, &frame).unwrap_err();
        assert_eq!(error, ConnectionError::Abuse(refusal));
        assert_eq!(error.code(), ErrorCode::ENHANCE_YOUR_CALM);
        assert_eq!(bench.conn.refusals().count(refusal), 1);
        let sent = bench.sent();
        let (last, payload) = sent.last().unwrap();
        assert_eq!(last.kind, kind::GOAWAY);
        assert_eq!(payload[4..], ErrorCode::ENHANCE_YOUR_CALM.0.to_be_bytes());
        assert_eq!(bench.feed(&frame), Err(error), "and stays ended");
    }
}

#[test]
fn time_and_work_allow_more() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let data = frame(kind::DATA, 0, 1, b"work");
    let mut bench = Bench::server(strict());
    bench.accept_tunnel(1);
    for _ in 0..10 {
        bench.repeat(4, &ping).unwrap();
        bench.later(Duration::from_secs(1));
        bench.repeat(4, &data).unwrap();
    }
}

#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    let mut bench = Bench::server(strict());
    let rapid = |bench: &mut Bench, id| {
        let mut bytes = bench.headers(id, GET, flag::END_STREAM);
        bytes.extend(frame(kind::RST_STREAM, 0, id, &[0, 0, 0, 8]));
        bench.feed(&bytes).map(drop)
    };
    let outcome = (0..20).try_for_each(|n| rapid(&mut bench, 2 * n + 1));
    assert_eq!(outcome, Err(ConnectionError::Abuse(Refusal::RapidReset)));
}

#[test]
fn cancelled_streams_are_borne_among_those_that_end_well() {
    let mut bench = Bench::server(strict());
    for n in 0..100 {
        let id = 4 * n + 1;
        let mut bytes = bench.headers(id, GET, flag::END_STREAM);
        bytes.extend(frame(kind::RST_STREAM, 0, id, &[0, 0, 0, 8]));
        bytes.extend(bench.headers(id + 2, GET, flag::END_STREAM));
        let seen = bench.feed(&bytes).unwrap();
        let Some(&Seen::Event(Event::Head { stream, .. })) = seen.last() else {
            panic!("{seen:?}");
        };
        let head = Head::response(204);
        bench
            .conn
            .send_response(stream, head.wire_fields(), End::Yes, &mut bench.out)
            .unwrap();
        bench.out.advance(bench.out.len());
    }
}

#[test]
fn streams_that_make_us_reset_them_end_the_connection() {
    let mut bench = Bench::server(strict());
    let outcome = (0..20).try_for_each(|n| {
        let mut bytes = bench.headers(2 * n + 1, GET, 0);
        bytes.extend(window_update(2 * n + 1, 0));
        bench.feed(&bytes).map(drop)
    });
    assert_eq!(outcome, Err(ConnectionError::Abuse(Refusal::RapidReset)));
}

#[test]
fn endless_header_blocks_end_the_connection() {
    for piece in [0usize, 1, 16_000] {
        let mut bench = Bench::server(strict());
        bench.feed(&frame(kind::HEADERS, 0, 1, &[])).unwrap();
        let continuation = frame(kind::CONTINUATION, 0, 1, &vec![0; piece]);
        let error = bench.repeat(100, &continuation).unwrap_err();
        assert_eq!(error, ConnectionError::Abuse(Refusal::Continuation));
        assert!(bench.conn.memory() < 100_000);
    }
}

#[test]
fn only_data_may_be_as_large_as_the_settings_say() {
    let config = Config {
        max_frame_bytes: 1024 * 1024,
        limits: Limits {
            header_block_bytes: 20_000,
            ..Limits::default()
        },
        ..Config::default()
    };
    for (kind, stream, len) in [
        (kind::HEADERS, 1, 20_001),
        (kind::SETTINGS, 0, 60_000),
        (kind::GOAWAY, 0, 20_000),
        (kind::PING, 0, 9),
        (kind::DATA, 1, 1024 * 1024 + 1),
    ] {
        let mut bench = Bench::server(config.clone());
        let header = FrameHeader {
            len,
            kind,
            flags: 0,
            stream,
        };
        let outcome = bench.feed(&header.bytes());
        assert_eq!(outcome, Err(ConnectionError::FrameSize { kind }));
    }
    let mut bench = Bench::server(config);
    bench.accept_tunnel(1);
    bench.feed(&frame(0xfa, 0, 0, &[0; 500_000])).unwrap();
    assert!(bench.conn.memory() < 10_000, "it is skipped, not kept");
    let seen = bench.feed(&frame(kind::DATA, 0, 1, &[0; 500_000])).unwrap();
    assert_eq!(seen.len(), 1);
}

#[test]
fn heads_beyond_the_limits_end_their_stream_only() {
    let long = "x".repeat(2000);
    let many: Vec<(&str, &str)> = GET.iter().copied().chain([("x-a", "b"); 30]).collect();
    let large: Vec<(&str, &str)> = GET
        .iter()
        .copied()
        .chain([("x-a", long.as_str())])
        .collect();
    for (refusal, fields) in [
        (Refusal::HeaderFields, many),
        (Refusal::HeaderListBytes, large),
    ] {
        let mut bench = Bench::server(Config {
            limits: Limits {
                header_fields: 20,
                header_list_bytes: 2000,
                ..Limits::default()
            },
            ..Config::default()
        });
        let request = bench.headers(1, &fields, flag::END_STREAM);
        assert_eq!(bench.feed(&request), Ok(Vec::new()));
        let (header, payload) = bench.sent().pop().unwrap();
        assert_eq!((header.kind, header.stream), (kind::RST_STREAM, 1));
        assert_eq!(payload, ErrorCode::INTERNAL_ERROR.0.to_be_bytes());
        assert_eq!(bench.conn.refusals().count(refusal), 1);
        let next = bench.headers(3, GET, flag::END_STREAM);
        assert_eq!(bench.feed(&next).unwrap().len(), 1);
    }
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let mut bench = Bench::server(Config {
        max_concurrent_streams: 2,
        ..Config::default()
    });
    bench.accept_tunnel(1);
    bench.accept_tunnel(3);
    let third = bench.headers(5, CONNECT, 0);
    assert_eq!(bench.feed(&third), Ok(Vec::new()));
    let (header, payload) = bench.sent().pop().unwrap();
    assert_eq!((header.kind, header.stream), (kind::RST_STREAM, 5));
    assert_eq!(payload, ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    assert_eq!(bench.conn.refusals().count(Refusal::Streams), 1);
    // What was on its way is ignored.
    assert_eq!(bench.feed(&frame(kind::DATA, 0, 5, b"x")), Ok(Vec::new()));
    bench.feed(&frame(kind::RST_STREAM, 0, 1, &[0; 4])).unwrap();
    bench.accept_tunnel(7);
}

#[test]
fn ended_streams_that_nobody_reads_are_bounded() {
    let mut bench = Bench::server(Config {
        max_concurrent_streams: 5,
        ..Config::default()
    });
    for n in 0..100 {
        let id = 2 * n + 1;
        let mut bytes = bench.headers(id, &[(":method", "POST"), GET[1], GET[2], GET[3]], 0);
        bytes.extend(frame(kind::DATA, flag::END_STREAM, id, b"unread"));
        for seen in bench.feed(&bytes).unwrap() {
            if let Seen::Event(Event::Head { stream, .. }) = seen {
                let head = Head::response(200);
                let _ =
                    bench
                        .conn
                        .send_response(stream, head.wire_fields(), End::Yes, &mut bench.out);
            }
        }
    }
    assert_eq!(bench.conn.active_streams(), 0);
    assert_eq!(bench.conn.streams().count(), 10);
    assert_eq!(bench.conn.refusals().count(Refusal::Streams), 90);
}

#[test]
fn new_streams_are_refused_when_the_connection_holds_too_much() {
    let mut bench = Bench::server(Config {
        limits: Limits {
            memory_bytes: 10_000,
            ..Limits::default()
        },
        ..Config::default()
    });
    bench.accept_tunnel(1);
    bench.out.put(&[0; 10_000]);
    let request = bench.headers(3, CONNECT, 0);
    assert_eq!(bench.feed(&request), Ok(Vec::new()));
    assert_eq!(bench.conn.refusals().count(Refusal::Memory), 1);
}

#[test]
fn answers_that_nobody_reads_end_the_connection() {
    let mut bench = Bench::server(Config {
        output_bytes: 1000,
        limits: Limits {
            backlog_bytes: 1000,
            ..Limits::default()
        },
        ..Config::default()
    });
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let outcome = (0..1000).try_for_each(|_| bench.feed(&ping).map(drop));
    assert_eq!(outcome, Err(ConnectionError::Abuse(Refusal::Backlog)));
    assert!(bench.out.len() < 2100);
}

#[test]
fn windows_can_neither_be_exceeded_nor_overflow() {
    let too_much = vec![0; 1001];
    let cases: [(Vec<u8>, Refusal, Option<ErrorCode>); 4] = [
        (
            window_update(1, 0x7fff_ffff),
            Refusal::WindowOverflow,
            Some(ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (window_update(0, 0x7fff_ffff), Refusal::WindowOverflow, None),
        (settings(&[(4, 0x7fff_ffff)]), Refusal::WindowOverflow, None),
        (
            frame(kind::DATA, 0, 1, &too_much),
            Refusal::WindowExceeded,
            Some(ErrorCode::FLOW_CONTROL_ERROR),
        ),
    ];
    for (bytes, refusal, stream_error) in cases {
        let mut bench = Bench::server(Config {
            stream_window_bytes: 1000,
            ..Config::default()
        });
        let stream = bench.accept_tunnel(1);
        // So that a new initial window of the greatest size is too much for this stream.
        bench.feed(&window_update(1, 1)).unwrap();
        let outcome = bench.feed(&bytes);
        match stream_error {
            Some(code) => {
                let by = ResetBy::Us;
                let reset = Event::Reset { stream, code, by };
                assert_eq!(outcome, Ok(vec![Seen::Event(reset)]));
            }
            None => assert_eq!(outcome.unwrap_err().code(), ErrorCode::FLOW_CONTROL_ERROR),
        }
        assert_eq!(bench.conn.refusals().count(refusal), 1);
    }
}

#[test]
fn more_than_the_connections_window_ends_the_connection() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 1_000_000,
        connection_window_bytes: 70_000,
        ..Config::default()
    });
    bench.accept_tunnel(1);
    let data = frame(kind::DATA, 0, 1, &[0; 16_000]);
    let outcome = bench.repeat(5, &data);
    assert_eq!(outcome, Err(ConnectionError::WindowExceeded));
    assert_eq!(bench.conn.refusals().count(Refusal::WindowExceeded), 1);
}
