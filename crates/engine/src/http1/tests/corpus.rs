//! The fuzz targets on their corpus, and on what a property test makes up.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::ServerConfig;
use super::super::fuzz::{fuzz_chunked, fuzz_request, fuzz_response, requests, responses};

fn replay(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/http1/corpus")
        .join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for choice in 0..=255 {
            target(&[&[choice], &*bytes].concat());
        }
        for cut in 0..bytes.len() {
            target(&[&[0x0f], &bytes[..cut]].concat());
        }
        target(&bytes);
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", dir.display());
}

#[test]
fn requests_of_the_corpus() {
    replay("request", fuzz_request);
}

#[test]
fn responses_of_the_corpus() {
    replay("response", fuzz_response);
}

#[test]
fn chunks_of_the_corpus() {
    replay("chunked", fuzz_chunked);
}

/// Words that mean something, and bytes that don't.
fn words(meaningful: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        8 => proptest::sample::select(meaningful).prop_map(|w| w.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

const REQUEST_WORDS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a HTTP/1.1\r\n",
    "PUT http://b/ HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "Host: a\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: ",
    "close",
    ", ",
    "upgrade",
    "Upgrade: x\r\n",
    "TE: trailers\r\n",
    "X: y",
    "x_y: z",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n",
    "0\r\n\r\n",
    ";e",
    "Expect: 100-continue\r\n",
    "Keep-Alive: 1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
];

const RESPONSE_WORDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 N\r\n",
    "HTTP/1.1 101 S\r\n",
    "HTTP/1.1 100 C\r\n\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 304 N\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Upgrade: websocket\r\n",
    "X: y\r\n",
    "\r\n",
    "\n",
    "\r",
    " z\r\n",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n",
    "0\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_request(data in words(REQUEST_WORDS), choice in any::<u8>()) {
        fuzz_request(&[&[choice], &*data].concat());
    }

    #[test]
    fn any_response(data in words(RESPONSE_WORDS), choice in any::<u8>()) {
        fuzz_response(&[&[choice], &*data].concat());
    }

    #[test]
    fn any_chunks(data in words(&["0", "1", "a", "\r\n", "x\r\n", ";", " ", "\n", "\r", "2\r\nxy\r\n", "0\r\n"]), choice in any::<u8>()) {
        fuzz_chunked(&[&[choice], &*data].concat());
    }

    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_request(&data);
        fuzz_response(&data);
        fuzz_chunked(&data);
    }

    #[test]
    fn any_two_pieces_are_the_whole(data in words(REQUEST_WORDS), cut in 1usize..300) {
        let config = Arc::new(ServerConfig::default());
        prop_assert_eq!(requests(&config, &data, data.len()), requests(&config, &data, cut));
    }

    #[test]
    fn any_two_pieces_of_responses_are_the_whole(data in words(RESPONSE_WORDS), cut in 1usize..300) {
        prop_assert_eq!(responses(3, &data, data.len()), responses(3, &data, cut));
    }
}
