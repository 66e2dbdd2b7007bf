//! Over real connections, against blocking peers in other threads.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{
    Ipv4Addr, Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream,
};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::SockRef;
use waymark_rt::{ConnectOptions, ListenOptions};

use super::*;
use crate::io::{filled, finish, put_all, read_to_end};
use crate::tls::fixture::{NAME, configs, configs_with};
use crate::tls::{RecordError, TlsError, accept, connect};
use crate::{Executor, TcpListener, mailbox, spawn, timeout, yield_now};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn run<F: Future>(main: F) -> F::Output {
    let mut executor = Executor::new().unwrap();
    let output = executor.block_on(timeout(PATIENCE, main)).unwrap();
    assert_eq!(executor.panicked(), 0);
    output
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// A blocking peer that is connected to, and what it returns.
fn peer<T: Send + 'static>(
    serve: impl FnOnce(StdStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = StdListener::bind(any_port()).unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        serve(stream)
    });
    (addr, thread)
}

async fn call(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr, &ConnectOptions::default())
        .await
        .unwrap()
}

/// A connected pair of ours, each end on this executor.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = waymark_rt::bind(any_port(), &ListenOptions::default()).unwrap();
    let mut listener = TcpListener::from_std(listener).unwrap();
    let addr = listener.local_addr();
    let client = spawn("client", async move { call(addr).await });
    let server = TcpStream::adopt(listener.accept().await).unwrap();
    (client.await.unwrap(), server)
}

fn message(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8).collect()
}

/// Puts a message while it reads an echo of it, then the end both ways.
async fn exchange(mut socket: Socket, message: Vec<u8>) {
    let mut put = 0;
    let mut got = Vec::new();
    let mut finished = false;
    poll_fn(|cx| {
        loop {
            let mut moved = false;
            if put < message.len()
                && let Poll::Ready(count) = socket.poll_put(&message[put..], cx)
            {
                put += count.unwrap();
                moved = true;
            } else if put == message.len() && !finished {
                finished = socket.poll_finish(cx).map(Result::unwrap).is_ready();
            }
            if let Poll::Ready(bytes) = socket.poll_fill(cx) {
                let bytes = bytes.unwrap();
                let count = bytes.len();
                got.extend_from_slice(bytes);
                socket.consume(count);
                if count == 0 {
                    return Poll::Ready(());
                }
                moved = true;
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await;
    assert!(finished && got == message);
    assert_eq!(filled(&mut socket).await.unwrap(), 0, "the end stays");
}

fn echo(mut stream: impl Read + Write) {
    let mut buffer = vec![0; 50_000];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            count => stream.write_all(&buffer[..count]).unwrap(),
        }
    }
}

#[test]
fn plain_text_goes_both_ways_until_each_end() {
    let (addr, peer) = peer(|stream| {
        echo(&stream);
        stream.shutdown(Shutdown::Write).unwrap();
    });
    run(async {
        let tcp = call(addr).await;
        assert!(SockRef::from(&tcp).tcp_nodelay().unwrap());
        exchange(Socket::plain(tcp).unwrap(), message(3_000_000)).await;
    });
    peer.join().unwrap();
}

#[test]
fn a_client_session_goes_both_ways_with_every_cipher_suite() {
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let (server, client) = configs_with(&[suite]);
        let (addr, peer) = peer(move |tcp| {
            let mut stream = StreamOwned::new(ServerConnection::new(server).unwrap(), tcp);
            echo(&mut stream);
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        });
        run(async {
            let (socket, told) = connect(call(addr).await, client, name(), PATIENCE)
                .await
                .unwrap();
            assert_eq!(told.alpn.as_deref(), Some(&b"h2"[..]));
            assert_eq!(told.certificates.len(), 1);
            exchange(socket, message(1_000_000)).await;
        });
        peer.join().unwrap();
    }
}

#[test]
fn a_server_session_goes_both_ways_while_its_peer_changes_keys() {
    let (server, client) = configs();
    run(async {
        let listener = waymark_rt::bind(any_port(), &ListenOptions::default()).unwrap();
        let mut listener = TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr();
        let peer = std::thread::spawn(move || {
            let connection = ClientConnection::new(client, name()).unwrap();
            let mut stream = StreamOwned::new(connection, StdStream::connect(addr).unwrap());
            for _ in 0..20 {
                stream.write_all(&message(40_000)).unwrap();
                stream.conn.refresh_traffic_keys().unwrap();
            }
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let tcp = TcpStream::adopt(listener.accept().await).unwrap();
        let (mut socket, told) = accept(tcp, server, PATIENCE).await.unwrap();
        assert_eq!(told.certificates.len(), 1);
        let all = read_to_end(&mut socket, 1_000_000).await.unwrap();
        assert!(all == message(40_000).repeat(20));
        put_all(&mut socket, &all).await.unwrap();
        finish(&mut socket).await.unwrap();
        drop(socket);
        assert!(peer.join().unwrap() == all);
    });
}

/// Two sessions of ours with each other.
async fn secured() -> (Socket, Socket) {
    let (server, client) = configs();
    let (one, other) = connected().await;
    let serving = spawn("server", accept(other, server, PATIENCE));
    let (client, _) = connect(one, client, name(), PATIENCE).await.unwrap();
    let (server, _) = serving.await.unwrap().unwrap();
    (client, server)
}

#[test]
fn what_a_turn_puts_is_written_at_its_end_and_all_at_once() {
    run(async {
        let (mut client, mut server) = secured().await;
        for part in message(1000).chunks(10) {
            put_all(&mut client, part).await.unwrap();
        }
        let sent = client.shared.borrow().out.unsent().len();
        assert!(sent > 1000, "nothing is written before the turn's end");
        filled(&mut server).await.unwrap();
        assert!(client.shared.borrow().out.is_empty());
        let raw = server.received.raw().len() + server.received.plain().len();
        assert!(raw > 1000, "one read has it all: {raw}");
        let whole = poll_fn(|cx| server.poll_fill_more(999, cx).map_ok(<[u8]>::to_vec)).await;
        assert!(whole.unwrap() == message(1000));
    });
}

#[test]
fn a_reader_that_does_not_read_makes_the_writer_wait() {
    run(async {
        let (mut client, mut server) = secured().await;
        let written = spawn("writer", async move {
            let mut total = 0;
            // More than any socket buffer has room for.
            while total < 200 << 20 {
                let put = poll_fn(|cx| client.poll_put(&[7; 100_000], cx));
                match timeout(Duration::from_millis(300), put).await {
                    Ok(count) => total += count.unwrap(),
                    Err(_) => break,
                }
            }
            assert!(total < 200 << 20);
            let buffered = client.shared.borrow().out.unsent().len();
            assert!(buffered < 2 * OUT_LIMIT, "{buffered}");
            finish(&mut client).await.unwrap();
            total
        });
        while !written.is_finished() && server.received.plain().is_empty() {
            filled(&mut server).await.unwrap();
        }
        let mut total = 0;
        // Only when the writer has given up does anybody read.
        crate::sleep(Duration::from_millis(700)).await;
        loop {
            let count = filled(&mut server).await.unwrap();
            server.consume(count);
            total += count;
            if count == 0 {
                break;
            }
        }
        assert_eq!(written.await.unwrap(), total);
    });
}

#[test]
fn an_idle_session_holds_no_buffers_and_a_partial_record_only_its_size() {
    run(async {
        let (mut client, mut server) = secured().await;
        put_all(&mut client, &message(60_000)).await.unwrap();
        let mut left = 60_000;
        while left > 0 {
            let count = filled(&mut server).await.unwrap();
            server.consume(count);
            left -= count;
        }
        let waits = |socket: &mut Socket| {
            assert!(
                socket
                    .poll_plain(0, &mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
        };
        waits(&mut server);
        waits(&mut client);
        for socket in [&client, &server] {
            assert!(socket.received.is_without_memory());
            assert!(socket.shared.borrow().out.is_without_memory());
        }
    });
}

/// A session whose peer then does something over the raw connection, which gets what the peer's side would have sent.
fn hostile(
    act: impl FnOnce(&mut StreamOwned<ClientConnection, StdStream>) + Send + 'static,
) -> std::io::Error {
    let (server, client) = configs();
    run(async {
        let listener = waymark_rt::bind(any_port(), &ListenOptions::default()).unwrap();
        let mut listener = TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr();
        let peer = std::thread::spawn(move || {
            let connection = ClientConnection::new(client, name()).unwrap();
            let mut stream = StreamOwned::new(connection, StdStream::connect(addr).unwrap());
            stream.write_all(b"hello").unwrap();
            act(&mut stream);
        });
        let tcp = TcpStream::adopt(listener.accept().await).unwrap();
        let (mut socket, _) = accept(tcp, server, PATIENCE).await.unwrap();
        let mut hello = filled(&mut socket).await.unwrap();
        assert_eq!(hello, 5, "what was sent before is given");
        let error = loop {
            match poll_fn(|cx| socket.poll_fill_more(hello, cx).map_ok(<[u8]>::len)).await {
                Ok(more) => {
                    assert!(more > hello, "an end in good order");
                    hello = more;
                }
                Err(error) => break error,
            }
        };
        let again = put_all(&mut socket, b"x").await.unwrap_err();
        assert_eq!(again.kind(), error.kind(), "both directions are over");
        drop(socket);
        peer.join().unwrap();
        error
    })
}

fn record_error(error: &std::io::Error) -> Option<RecordError> {
    match TlsError::of(error)? {
        TlsError::Record(error) => Some(*error),
        _ => None,
    }
}

#[test]
fn a_connection_that_ends_without_a_close_notify_is_truncated() {
    let error = hostile(|stream| stream.sock.shutdown(Shutdown::Write).unwrap());
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_record_that_is_cut_off_is_an_error() {
    let error = hostile(|stream| {
        stream.sock.write_all(&[23, 3, 3, 0, 100, 1, 2, 3]).unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn records_that_break_the_rules_are_refused_with_an_alert() {
    let cases: [(&[u8], RecordError, rustls::AlertDescription); 4] = [
        (
            &[23, 3, 3, 0x41, 1],
            RecordError::TooLong,
            rustls::AlertDescription::RecordOverflow,
        ),
        (
            &[
                23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
            RecordError::BadMac,
            rustls::AlertDescription::BadRecordMac,
        ),
        (
            &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5],
            RecordError::BadMac,
            rustls::AlertDescription::BadRecordMac,
        ),
        (
            &[21, 3, 3, 0, 2, 1, 0],
            RecordError::Unexpected,
            rustls::AlertDescription::UnexpectedMessage,
        ),
    ];
    for (record, expected, alert) in cases {
        let error = hostile(move |stream| {
            stream.sock.write_all(record).unwrap();
            let told = stream.read(&mut [0; 100]).unwrap_err();
            let told = told.get_ref().unwrap().downcast_ref::<rustls::Error>();
            assert_eq!(told, Some(&rustls::Error::AlertReceived(alert)));
        });
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(record_error(&error), Some(expected), "{error:?}");
    }
}

#[test]
fn key_updates_without_end_are_refused() {
    let error = hostile(|stream| {
        for _ in 0..100 {
            stream.conn.refresh_traffic_keys().unwrap();
        }
        // The other side may be gone before all is sent.
        let _ = stream.flush();
        let _ = stream.sock.read_to_end(&mut Vec::new());
    });
    assert_eq!(record_error(&error), Some(RecordError::Flood));
}

#[test]
fn a_peer_that_says_nothing_is_given_up_on() {
    let (server, _) = configs();
    run(async {
        let (_silent, tcp) = connected().await;
        let error = accept(tcp, server, Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(matches!(error, TlsError::Timeout), "{error:?}");
    });
}

#[test]
fn a_peer_that_goes_away_or_speaks_something_else_is_no_session() {
    let (server, client) = configs();
    let (addr, gone) = peer(drop);
    let (other_addr, other) = peer(|mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    run(async {
        let refused = connect(call(addr).await, Arc::clone(&client), name(), PATIENCE).await;
        assert!(
            matches!(refused, Err(TlsError::Closed | TlsError::Io(_))),
            "{refused:?}"
        );
        let refused = connect(call(other_addr).await, client, name(), PATIENCE).await;
        assert!(matches!(refused, Err(TlsError::Rustls(_))), "{refused:?}");
        // A client with a certificate of another CA: the server says why, and tells the client.
        let (_, stranger) = configs();
        let (one, other) = connected().await;
        let serving = spawn("server", accept(other, server, PATIENCE));
        let result = connect(one, stranger, name(), PATIENCE).await;
        assert!(matches!(result, Err(TlsError::Rustls(_))), "{result:?}");
        let refused = serving.await.unwrap();
        assert!(
            matches!(
                refused,
                Err(TlsError::Rustls(rustls::Error::AlertReceived(_)))
            ),
            "{refused:?}"
        );
    });
    gone.join().unwrap();
    other.join().unwrap();
}

#[test]
fn an_aborted_or_dropped_connection_is_a_reset_for_the_peer() {
    for abort in [true, false] {
        let (addr, peer) = peer(|mut stream| stream.read(&mut [0; 10]).map_err(|e| e.kind()));
        run(async {
            let mut socket = Socket::plain(call(addr).await).unwrap();
            if abort {
                socket.abort();
                assert!(filled(&mut socket).await.is_err());
            }
        });
        assert_eq!(peer.join().unwrap(), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_peer_that_resets_ends_both_directions() {
    let (addr, peer) = peer(|stream| {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    run(async {
        let mut socket = Socket::plain(call(addr).await).unwrap();
        let error = filled(&mut socket).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(put_all(&mut socket, b"x").await.is_err());
        assert!(finish(&mut socket).await.is_err());
    });
    peer.join().unwrap();
}

#[test]
fn a_connection_is_accepted_here_and_served_by_another_thread() {
    let (sender, mut accepted) = mailbox(1);
    let worker = std::thread::spawn(move || {
        run(async move {
            let mut socket =
                Socket::plain(TcpStream::adopt(accepted.recv().await.unwrap()).unwrap()).unwrap();
            let all = read_to_end(&mut socket, 100).await.unwrap();
            put_all(&mut socket, &all).await.unwrap();
            finish(&mut socket).await.unwrap();
        });
    });
    run(async {
        let listener = waymark_rt::bind(any_port(), &ListenOptions::default()).unwrap();
        let mut listener = TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr();
        let client = spawn("client", async move {
            exchange(Socket::plain(call(addr).await).unwrap(), message(50)).await;
        });
        sender.send(listener.accept().await).await.unwrap();
        client.await.unwrap();
        yield_now().await;
    });
    worker.join().unwrap();
}

#[test]
fn calls_from_the_given_address_and_says_why_it_could_not() {
    run(async {
        let (addr, peer) = peer(|stream| stream.peer_addr().unwrap().ip());
        let source = Ipv4Addr::new(127, 9, 8, 7).into();
        let options = ConnectOptions::default().from_source(source);
        let stream = TcpStream::connect(addr, &options).await.unwrap();
        assert_eq!(peer.join().unwrap(), source);
        drop(stream);
        let refused = TcpStream::connect(addr, &options).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("connect to {addr}"));
        let foreign = ConnectOptions::default().from_source(Ipv4Addr::new(192, 0, 2, 1).into());
        let foreign = TcpStream::connect(addr, &foreign).await.unwrap_err();
        assert!(
            matches!(foreign, waymark_rt::ConnectError::Bind { .. }),
            "{foreign:?}"
        );
    });
}

/// A waker that says whether it was used.
struct Told(std::sync::atomic::AtomicBool);

impl std::task::Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn who_waits_for_a_socket_that_is_dropped_is_woken() {
    Executor::new().unwrap().block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = TcpStream::from_std(listener.accept().unwrap().0).unwrap();
        let told = Arc::new(Told(false.into()));
        let waker = std::task::Waker::from(Arc::clone(&told));
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(tcp.poll_read(&mut [0; 8], &mut cx).is_pending());
        assert!(!told.0.load(std::sync::atomic::Ordering::Relaxed));
        drop(tcp);
        assert!(told.0.load(std::sync::atomic::Ordering::Relaxed));
    });
}
