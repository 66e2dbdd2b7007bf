//! The applications' HTTP/2, gRPC included, made of the h2 crate alone.
//!
//! A gRPC request is answered with `messages` messages (one by default) and a status in the trailers; the body of the
//! first is what was seen, as in HTTP/1.1. With `echo` what comes is sent back as it comes.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::{Apps, Request, seen};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A window that messages of some megabytes do not fit in.
const WINDOW: u32 = 256 << 10;
/// A stream that stalls takes its own window from it.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// GOAWAY that names stream 0: nothing was looked at.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What the streams of a connection tell it.
struct Ending {
    /// No more streams, those that are there are finished.
    gently: Notify,
    /// For what h2 does not let one do.
    socket: std::net::TcpStream,
}

impl Ending {
    /// Ends the connection before h2 can say why.
    fn now(&self) -> Result<(), Failed> {
        Ok(self.socket.shutdown(Shutdown::Both)?)
    }
}

/// Serves one connection, whose preface has not been read.
pub(super) async fn serve(
    apps: Apps,
    pod: Arc<str>,
    socket: std::net::TcpStream,
) -> Result<(), Failed> {
    socket.set_nonblocking(true)?;
    let ending = Arc::new(Ending {
        gently: Notify::new(),
        socket: socket.try_clone()?,
    });
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TcpStream::from_std(socket)?)
        .await?;
    loop {
        tokio::select! {
            () = ending.gently.notified() => connection.graceful_shutdown(),
            stream = connection.accept() => {
                let Some(stream) = stream else { return Ok(()) };
                let (request, respond) = stream?;
                let (apps, pod, ending) = (apps.clone(), Arc::clone(&pod), Arc::clone(&ending));
                #[expect(clippy::disallowed_methods, reason = "ended with the runtime of the applications")]
                tokio::spawn(async move {
                    // A client that goes away is nothing to tell.
                    let _ = Box::pin(stream_of(&apps, &pod, request, respond, &ending)).await;
                });
            }
        }
    }
}

/// One request and its answer.
async fn stream_of(
    apps: &Apps,
    pod: &str,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    ending: &Ending,
) -> Result<(), Failed> {
    let (parts, mut body) = request.into_parts();
    let mut request = Request::of(&parts);
    request.attempt = apps.note(request.header("x-id"), pod);
    tokio::time::sleep(request.delay()).await;
    let failing = request.number("fail").is_none() || request.fails();
    if let Some(reason) = request.wants("rst").and_then(reason).filter(|_| failing) {
        respond.send_reset(reason);
        return Ok(());
    }
    if request.wants("goaway").is_some() && failing {
        // Nothing else is being written: the client waits for this answer.
        (&ending.socket).write_all(&GOAWAY)?;
        return ending.now();
    }
    if request.wants("close").is_some() && failing {
        return ending.now();
    }
    let grpc = request
        .header("content-type")
        .starts_with("application/grpc");
    if request.wants("echo").is_some() {
        return Box::pin(echo(pod, respond, body)).await;
    }
    if request.wants("early").is_none() {
        request.body = collect(&mut body).await?;
        request.trailers = lines(body.trailers().await?.as_ref());
    }
    let answer = Answer {
        failing: failing && request.number("fail").is_some(),
        grpc,
    };
    Box::pin(answer.send((apps, pod), &request, &mut respond, ending)).await
}

struct Answer {
    failing: bool,
    grpc: bool,
}

impl Answer {
    async fn send(
        &self,
        (apps, pod): (&Apps, &str),
        request: &Request,
        respond: &mut SendResponse<Bytes>,
        ending: &Ending,
    ) -> Result<(), Failed> {
        let grpc_status = match (self.failing, request.wants("grpc")) {
            (true, code) => code.unwrap_or("14"),
            (false, code) if request.number("fail").is_none() => code.unwrap_or("0"),
            (false, _) => "0",
        };
        let status = match (self.failing, self.grpc) {
            (true, false) => request.number("code").unwrap_or(503),
            _ => request.number("status").unwrap_or(200),
        };
        let mut head = Response::builder()
            .status(u16::try_from(status)?)
            .header("x-pod", pod);
        if let Some((name, value)) = request.wants("header").and_then(|h| h.split_once(':')) {
            head = head.header(name, value);
        }
        let mut trailers = HeaderMap::new();
        if self.grpc {
            head = head.header("content-type", "application/grpc");
            trailers.insert("grpc-status", HeaderValue::from_str(grpc_status)?);
            if let Some(message) = request.wants("message") {
                trailers.insert("grpc-message", HeaderValue::from_str(message)?);
            }
        }
        if let Some((name, value)) = request.wants("trailer").and_then(|h| h.split_once(':')) {
            let name: HeaderName = name.parse()?;
            trailers.insert(name, HeaderValue::from_str(value)?);
        }
        if self.grpc && (self.failing || request.wants("trailers-only").is_some()) {
            let mut head = head.body(())?;
            head.headers_mut().extend(trailers);
            respond.send_response(head, true)?;
            return Ok(());
        }
        if request.method == "HEAD" || status == 204 || status == 304 {
            respond.send_response(head.body(())?, true)?;
            return Ok(());
        }
        let mut send = respond.send_response(head.body(())?, false)?;
        let body = self.body(pod, request);
        let in_two = ["rst-after", "cut", "hold"];
        let first = match in_two.iter().any(|what| request.wants(what).is_some()) {
            true => body.len() / 2,
            false => body.len(),
        };
        let rest = body.slice(first..);
        send_all(&mut send, body.slice(..first)).await?;
        if !rest.is_empty() {
            // What was sent has to be out before a reset takes it along: the client has it.
            apps.told_to_go_on(request.header("x-id")).await?;
        }
        if let Some(reason) = request.wants("rst-after").and_then(reason) {
            send.send_reset(reason);
            return Ok(());
        }
        if request.wants("cut").is_some() {
            return ending.now();
        }
        send_all(&mut send, rest).await?;
        if request.wants("last").is_some() {
            ending.gently.notify_one();
        }
        if trailers.is_empty() {
            send.send_data(Bytes::new(), true)?;
        } else {
            send.send_trailers(trailers)?;
        }
        Ok(())
    }

    fn body(&self, pod: &str, request: &Request) -> Bytes {
        let one = match request.number("size") {
            Some(size) => Bytes::from(vec![b'x'; size]),
            None => seen(pod, request).to_string().into(),
        };
        if !self.grpc {
            return one;
        }
        let messages = request.number("messages").unwrap_or(1);
        let mut all = BytesMut::new();
        for _ in 0..messages {
            all.extend_from_slice(&framed(&one));
        }
        all.freeze()
    }
}

/// Sends back what comes, then `bye` in a trailer.
async fn echo(
    pod: &str,
    mut respond: SendResponse<Bytes>,
    mut body: RecvStream,
) -> Result<(), Failed> {
    let head = Response::builder()
        .header("x-pod", pod)
        .header("content-type", "application/grpc")
        .body(())?;
    let mut send = respond.send_response(head, false)?;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let length = chunk.len();
        send_all(&mut send, chunk).await?;
        body.flow_control().release_capacity(length)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-last", HeaderValue::from_static("bye"));
    send.send_trailers(trailers)?;
    Ok(())
}

/// All bytes of a body, taken as they come.
pub(crate) async fn collect(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Sends bytes as the windows admit.
pub(crate) async fn send_all(
    send: &mut SendStream<Bytes>,
    mut bytes: Bytes,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len().min(64 << 10));
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let room = room.ok_or(Reason::CANCEL)??;
        send.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}

/// A gRPC message with its prefix.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut all = BytesMut::with_capacity(message.len() + 5);
    all.put_u8(0);
    all.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    all.extend_from_slice(message);
    all.freeze()
}

/// Header lines as text.
pub(crate) fn lines(headers: Option<&HeaderMap>) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

/// An error code by its name.
fn reason(name: &str) -> Option<Reason> {
    match name {
        "no-error" => Some(Reason::NO_ERROR),
        "refused" => Some(Reason::REFUSED_STREAM),
        "internal" => Some(Reason::INTERNAL_ERROR),
        "cancel" => Some(Reason::CANCEL),
        "protocol" => Some(Reason::PROTOCOL_ERROR),
        "calm" => Some(Reason::ENHANCE_YOUR_CALM),
        _ => None,
    }
}
