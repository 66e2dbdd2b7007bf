use std::time::Duration;

use super::super::End;
use super::*;

static DATA: [u8; 100_000] = [b'd'; 100_000];

#[test]
fn an_unread_stream_stalls_neither_its_siblings_nor_grows() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 32_000,
        connection_window_bytes: 100_000,
        ..Config::default()
    });
    bench.accept_tunnel(1);
    let read = bench.accept_tunnel(3);
    bench
        .repeat(2, &frame(kind::DATA, 0, 1, &[0; 16_000]))
        .unwrap();
    for _ in 0..100 {
        let seen = bench.feed(&frame(kind::DATA, 0, 3, &[0; 16_000])).unwrap();
        assert_eq!(seen.len(), 1);
        bench.conn.consume(read, 16_000, &mut bench.out);
        bench.out.advance(bench.out.len());
    }
    let more = bench.feed(&frame(kind::DATA, 0, 1, &[0])).unwrap();
    assert!(
        matches!(more[..], [Seen::Event(Event::Reset { .. })]),
        "{more:?}"
    );
}

#[test]
fn data_that_was_on_its_way_before_our_settings_were_known_is_taken() {
    let config = Config {
        stream_window_bytes: 1000,
        ..Config::default()
    };
    let mut out = WriteBuf::new();
    let conn = Connection::server(Arc::new(config), &mut out);
    let mut bench = Bench::new(conn, out);
    bench.feed(PREFACE).unwrap();
    bench.feed(&settings(&[])).unwrap();
    let stream = bench.accept_tunnel(1);
    bench.feed(&frame(kind::DATA, 0, 1, &[0; 16_000])).unwrap();
    bench
        .feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]))
        .unwrap();
    let seen = bench
        .feed(&frame(kind::DATA, flag::END_STREAM, 1, &[]))
        .unwrap();
    assert_eq!(seen, [Seen::Data(stream, Vec::new(), true)]);
    let other = bench.accept_tunnel(3);
    let seen = bench.feed(&frame(kind::DATA, 0, 3, &[0; 1001])).unwrap();
    let code = super::super::ErrorCode::FLOW_CONTROL_ERROR;
    let by = super::super::ResetBy::Us;
    let reset = Event::Reset {
        stream: other,
        code,
        by,
    };
    assert_eq!(seen, [Seen::Event(reset)]);
}

#[test]
fn windows_are_enlarged_by_halves() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 1000,
        stream_window_max_bytes: 1000,
        ..Config::default()
    });
    let stream = bench.accept_tunnel(1);
    bench.feed(&frame(kind::DATA, 0, 1, &[0; 600])).unwrap();
    bench.conn.consume(stream, 499, &mut bench.out);
    assert!(bench.sent().is_empty());
    bench.conn.consume(stream, 1, &mut bench.out);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0.kind, sent[0].0.stream), (kind::WINDOW_UPDATE, 1));
    assert_eq!(sent[0].1, 500u32.to_be_bytes());
}

#[test]
fn the_window_of_a_stream_grows_while_its_reader_keeps_up() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 16_000,
        stream_window_max_bytes: 100_000,
        connection_window_bytes: 1_000_000,
        max_concurrent_streams: 10,
        ..Config::default()
    });
    let stream = bench.accept_tunnel(1);
    let increments = |bench: &mut Bench, bytes: usize| -> Vec<u32> {
        bench
            .feed(&frame(kind::DATA, 0, 1, &vec![0; bytes]))
            .unwrap();
        bench.conn.consume(stream, bytes, &mut bench.out);
        let of_stream = bench
            .sent()
            .into_iter()
            .filter(|(header, _)| header.stream == 1);
        of_stream
            .map(|(_, payload)| u32::from_be_bytes(payload.try_into().unwrap()))
            .collect()
    };
    assert_eq!(increments(&mut bench, 8000), [8000 + 16_000]);
    assert_eq!(increments(&mut bench, 8000), []);
    assert_eq!(increments(&mut bench, 8000), [16_000 + 32_000]);
    for _ in 0..2 {
        assert_eq!(increments(&mut bench, 15_000), []);
    }
    assert_eq!(
        increments(&mut bench, 2000),
        [32_000 + 36_000],
        "to the most"
    );
    bench.now += Duration::from_secs(1);
    let all: Vec<u32> = (0..10)
        .flat_map(|_| increments(&mut bench, 10_000))
        .collect();
    assert_eq!(all, [50_000, 50_000]);
    bench
        .conn
        .reset(stream, super::super::ErrorCode::CANCEL, &mut bench.out);
    bench.conn.assert_consistent();
}

#[test]
fn windows_grow_neither_for_slow_readers_nor_beyond_what_the_connection_holds() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 16_000,
        stream_window_max_bytes: 100_000,
        connection_window_bytes: 170_000,
        max_concurrent_streams: 10,
        ..Config::default()
    });
    let slow = bench.accept_tunnel(1);
    let quick = bench.accept_tunnel(3);
    let other = bench.accept_tunnel(5);
    bench.now += Duration::from_secs(1);
    for (stream, grown) in [(slow, 0), (quick, 10_000), (other, 0)] {
        let data = frame(kind::DATA, 0, stream.id(), &[0; 16_000]);
        if stream != slow {
            // The first half tells nothing after so long.
            bench.feed(&data[..9 + 8000]).unwrap();
            bench.conn.consume(stream, 8000, &mut bench.out);
            bench.sent();
            bench.feed(&data[9 + 8000..]).unwrap();
            bench.conn.consume(stream, 8000, &mut bench.out);
        } else {
            bench.feed(&data).unwrap();
            bench.conn.consume(stream, 8000, &mut bench.out);
        }
        let sent = bench.sent();
        let update = sent.iter().find(|(header, _)| header.stream > 0).unwrap();
        assert_eq!(update.1, (8000u32 + grown).to_be_bytes(), "{stream:?}");
    }
}

#[test]
fn padding_counts_and_is_given_back() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 1000,
        ..Config::default()
    });
    let stream = bench.accept_tunnel(1);
    let mut payload = vec![200];
    payload.extend(b"data");
    payload.extend([0; 200]);
    for _ in 0..20 {
        let seen = bench
            .feed(&frame(kind::DATA, flag::PADDED, 1, &payload))
            .unwrap();
        assert_eq!(seen, [Seen::Data(stream, b"data".to_vec(), false)]);
        bench.conn.consume(stream, 4, &mut bench.out);
    }
    let only_padding = frame(
        kind::DATA,
        flag::PADDED | flag::END_STREAM,
        1,
        &[3, 0, 0, 0],
    );
    assert_eq!(
        bench.feed(&only_padding),
        Ok(vec![Seen::Data(stream, Vec::new(), true)])
    );
    let too_much = frame(kind::DATA, flag::PADDED, 1, &[4, 0, 0, 0]);
    assert_eq!(bench.feed(&too_much), Err(ConnectionError::Padding));
}

#[test]
fn data_goes_as_far_as_the_windows() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    let send = |bench: &mut Bench, data: &[u8]| {
        bench
            .conn
            .send_data(stream, data, End::Yes, &mut bench.out)
            .unwrap()
    };
    assert_eq!(send(&mut bench, &DATA), 65_535);
    let sent = bench.sent();
    assert!(
        sent.iter()
            .all(|(header, _)| header.len <= 16_384 && header.flags == 0)
    );
    assert_eq!(
        sent.iter().map(|(header, _)| header.len).sum::<u32>(),
        65_535
    );
    assert_eq!(
        bench.feed(&window_update(1, 10)),
        Ok(Vec::new()),
        "the other is closed"
    );
    let writable = vec![Seen::Event(Event::Writable { stream })];
    assert_eq!(bench.feed(&window_update(0, 100_000)), Ok(writable.clone()));
    assert_eq!(send(&mut bench, &DATA[65_535..]), 10);
    assert_eq!(bench.feed(&window_update(1, 100_000)), Ok(writable));
    assert_eq!(send(&mut bench, &DATA[65_545..]), DATA.len() - 65_545);
    let (last, _) = bench.sent().pop().unwrap();
    assert!(last.has(flag::END_STREAM));
}

#[test]
fn new_initial_windows_change_open_streams() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    bench.feed(&settings(&[(4, 10)])).unwrap();
    let send = |bench: &mut Bench, data: &[u8]| {
        bench
            .conn
            .send_data(stream, data, End::No, &mut bench.out)
            .unwrap()
    };
    assert_eq!(send(&mut bench, &[0; 20]), 10);
    bench.feed(&settings(&[(4, 4)])).unwrap();
    assert_eq!(send(&mut bench, &[0; 20]), 0, "it is negative");
    bench.feed(&window_update(1, 6)).unwrap();
    assert_eq!(send(&mut bench, &[0; 20]), 0, "and now nothing");
    let seen = bench.feed(&settings(&[(4, 14)])).unwrap();
    let writable = Seen::Event(Event::Writable { stream });
    assert_eq!(seen, [Seen::Event(Event::Settings), writable]);
    assert_eq!(send(&mut bench, &[0; 20]), 10);
}

#[test]
fn a_full_output_takes_no_data_until_half_of_it_is_sent() {
    let mut bench = Bench::server(Config {
        output_bytes: 10_000,
        ..Config::default()
    });
    let stream = bench.accept_tunnel(1);
    let taken = bench
        .conn
        .send_data(stream, &DATA, End::No, &mut bench.out)
        .unwrap();
    assert_eq!(taken, 10_000);
    assert_eq!(bench.conn.send_capacity(stream, &bench.out), 0);
    bench.out.advance(5000);
    assert_eq!(bench.feed(&[]), Ok(Vec::new()));
    bench.out.advance(100);
    assert_eq!(
        bench.feed(&[]),
        Ok(vec![Seen::Event(Event::Writable { stream })])
    );
    assert_eq!(bench.feed(&[]), Ok(Vec::new()), "once");
}

#[test]
fn small_writes_share_a_frame() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    for end in [End::No, End::No, End::Yes] {
        bench
            .conn
            .send_data(stream, b"abc", end, &mut bench.out)
            .unwrap();
    }
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, b"abcabcabc");
    assert!(sent[0].0.has(flag::END_STREAM));
}

#[test]
fn a_frame_in_pieces_is_handed_on_as_it_comes() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    let bytes = frame(kind::DATA, flag::END_STREAM, 1, b"abc");
    let seen: Vec<Seen> = bytes
        .iter()
        .flat_map(|&byte| bench.feed(&[byte]).unwrap())
        .collect();
    let part = |data: &[u8], end| Seen::Data(stream, data.to_vec(), end);
    assert_eq!(
        seen,
        [part(b"a", false), part(b"b", false), part(b"c", true)]
    );
}

#[test]
fn an_unread_stream_that_is_reset_gives_its_window_back() {
    let mut bench = Bench::server(Config {
        stream_window_bytes: 60_000,
        connection_window_bytes: 65_535,
        ..Config::default()
    });
    for id in (1..21).step_by(2) {
        let stream = bench.accept_tunnel(id);
        for _ in 0..3 {
            bench.feed(&frame(kind::DATA, 0, id, &[0; 16_000])).unwrap();
        }
        if id % 4 == 1 {
            bench
                .feed(&frame(kind::RST_STREAM, 0, id, &[0; 4]))
                .unwrap();
        } else {
            bench
                .conn
                .reset(stream, super::super::ErrorCode::CANCEL, &mut bench.out);
        }
        assert_eq!(bench.conn.streams().count(), 0);
    }
}

#[test]
fn idle_connections_give_memory_back() {
    let mut bench = Bench::server(Config::default());
    for id in (1..200).step_by(2) {
        bench.accept_tunnel(id);
    }
    let busy = bench.conn.memory();
    for id in (1..200).step_by(2) {
        bench
            .feed(&frame(kind::RST_STREAM, 0, id, &[0; 4]))
            .unwrap();
    }
    bench.conn.release();
    assert!(bench.out.release());
    assert!(
        bench.conn.memory() < 2500,
        "{} of {busy}",
        bench.conn.memory()
    );
}
