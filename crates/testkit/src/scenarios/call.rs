//! A scenario's HTTP/2 client, gRPC included: streams that are driven step by step, made of the h2 crate alone.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

use super::Verdict;
use super::app::h2::{collect, framed, lines, send_all};
use super::got::Got;
use super::reply::Reply;
use super::site::{CLIENT, Site, TIMEOUT};
use crate::http::Answer;

/// An HTTP/2 connection of the client.
pub struct H2<'a> {
    site: &'a Site<'a>,
    runtime: Rc<Runtime>,
    send: SendRequest<Bytes>,
    authority: String,
}

impl<'a> H2<'a> {
    /// Connects to a port of the service, with prior knowledge.
    pub(super) fn connect(site: &'a Site<'a>, port: u16) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let to = SocketAddr::new(site.vip, port);
        let (send, connection) = run(&runtime, "connect", async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(CLIENT, 0))?;
            let stream: TcpStream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            h2::client::Builder::new()
                .initial_window_size(WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake::<_, Bytes>(stream)
                .await
                .map_err(std::io::Error::other)
        })?;
        runtime.spawn(async move {
            // How it ended shows in the streams.
            let _ = connection.await;
        });
        Ok(Self {
            site,
            runtime: Rc::new(runtime),
            send,
            authority: to.to_string(),
        })
    }

    /// Begins a request.
    ///
    /// # Errors
    /// When the connection takes no more.
    pub fn open(&mut self, call: &Call<'_>) -> Result<Stream<'a>, String> {
        let id = super::site::next_id();
        let request = call.head(&self.authority, &id)?;
        self.site.expected.request(&id, &call.flags);
        let send = self.send.clone();
        let (response, send, ready) = run(&self.runtime, "open a stream", async {
            let mut ready = send.ready().await?;
            let (response, send) = ready.send_request(request, call.bodiless)?;
            Ok::<_, h2::Error>((response, send, ready))
        })
        .inspect_err(|_| self.site.expected.forget(&id))?;
        self.send = ready;
        Ok(Stream {
            site: self.site,
            runtime: Rc::clone(&self.runtime),
            id,
            send,
            answer: Half::Head(response),
            started: Instant::now(),
        })
    }
}

/// A request that is being put together.
#[derive(Debug)]
pub struct Call<'a> {
    site: &'a Site<'a>,
    method: &'static str,
    path: String,
    port: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    bodiless: bool,
    trailers: Vec<(&'static str, String)>,
    flags: String,
}

impl<'a> Call<'a> {
    /// A gRPC call with one message.
    pub(super) fn grpc(site: &'a Site<'a>, message: &[u8]) -> Self {
        Self {
            site,
            method: "POST",
            path: "/echo.Echo/Call".to_owned(),
            port: 90,
            headers: [("content-type", "application/grpc"), ("te", "trailers")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            body: framed(message).to_vec(),
            bodiless: false,
            trailers: Vec::new(),
            flags: "-".to_owned(),
        }
    }

    /// An HTTP/2 request.
    pub(super) fn http2(site: &'a Site<'a>, method: &'static str, path: &str) -> Self {
        Self {
            site,
            method,
            path: path.to_owned(),
            port: 82,
            headers: Vec::new(),
            body: Vec::new(),
            bodiless: true,
            trailers: Vec::new(),
            flags: "-".to_owned(),
        }
    }

    /// To another port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the application do something, see [`super::app`].
    #[must_use]
    pub fn having(self, what: &str) -> Self {
        self.header("x-do", what)
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self.bodiless = false;
        self
    }

    /// With a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &'static str, value: &str) -> Self {
        self.trailers.push((name, value.to_owned()));
        self.bodiless = false;
        self
    }

    /// What the access log has to say about it; no flag unless this is called.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> Self {
        flags.clone_into(&mut self.flags);
        self
    }

    /// Opens it on a connection of its own, nothing but the head sent.
    ///
    /// # Errors
    /// When there is no connection.
    pub fn open(&self) -> Result<Stream<'a>, String> {
        H2::connect(self.site, self.port)?.open(self)
    }

    /// Sends it whole on a connection of its own and waits for the whole answer.
    ///
    /// # Errors
    /// When there is no connection or no answer; an answer that breaks off is none.
    pub fn send(&self) -> Result<Reply, String> {
        self.send_on(&mut H2::connect(self.site, self.port)?)
    }

    /// The same on a connection.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send_on(&self, connection: &mut H2<'a>) -> Result<Reply, String> {
        let mut stream = connection.open(self)?;
        if !self.bodiless {
            stream.send_rest(&self.body, &self.trailers)?;
        }
        stream.reply()
    }

    fn head(&self, authority: &str, id: &str) -> Result<Request<()>, String> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("http://{authority}{}", self.path))
            .header("x-id", id);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(()).map_err(|e| e.to_string())
    }
}

/// A stream on its way.
pub struct Stream<'a> {
    site: &'a Site<'a>,
    runtime: Rc<Runtime>,
    id: String,
    send: SendStream<Bytes>,
    answer: Half,
    started: Instant,
}

/// What was received so far.
enum Half {
    Head(ResponseFuture),
    Body(u16, HeaderMap, RecvStream),
}

impl<'a> Stream<'a> {
    /// Sends a gRPC message.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn message(&mut self, message: &[u8]) -> Verdict {
        let sending = send_all(&mut self.send, framed(message));
        run(&self.runtime, "send a message", sending)
    }

    /// Sends the end.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn finish(&mut self) -> Verdict {
        let end = self.send.send_data(Bytes::new(), true);
        end.map_err(|e| format!("send the end: {e}"))
    }

    /// Resets it. The frame goes out with what follows on the connection.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Lets an application go on that holds back the rest of its answer.
    pub fn go_on(&self) {
        self.site.ground.apps.go_on(&self.id);
    }

    /// Waits for the head of the answer; its status.
    ///
    /// # Errors
    /// When there is none.
    pub fn status(&mut self) -> Result<u16, String> {
        if let Half::Head(response) = &mut self.answer {
            let response = run(&self.runtime, "the head of the answer", response)?;
            let (parts, body) = response.into_parts();
            let status = parts.status.as_u16();
            self.site.expected.answered(&self.id, status);
            self.answer = Half::Body(status, parts.headers, body);
        }
        match &self.answer {
            Half::Body(status, ..) => Ok(*status),
            Half::Head(_) => Err("no head".to_owned()),
        }
    }

    /// Waits for that many bytes of the answer's body.
    ///
    /// # Errors
    /// When they do not come.
    pub fn bytes(&mut self, want: usize) -> Result<Vec<u8>, String> {
        self.status()?;
        let Half::Body(_, _, body) = &mut self.answer else {
            return Err("no body".to_owned());
        };
        run(&self.runtime, "bytes of the answer", async {
            let mut all = Vec::new();
            while all.len() < want {
                let Some(chunk) = body.data().await else {
                    break;
                };
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                all.extend_from_slice(&chunk);
            }
            Ok::<_, h2::Error>(all)
        })
    }

    /// Waits for the rest of the answer.
    ///
    /// # Errors
    /// When it breaks off: how.
    pub fn reply(mut self) -> Result<Reply, String> {
        let status = self.status()?;
        let Half::Body(_, headers, mut body) = self.answer else {
            return Err("no body".to_owned());
        };
        let (body, trailers) = run(&self.runtime, "the rest of the answer", async {
            Ok::<_, h2::Error>((collect(&mut body).await?, body.trailers().await?))
        })?;
        Ok(Reply {
            got: Got {
                answer: Answer {
                    status,
                    headers: lines(Some(&headers)),
                    body,
                },
                took: self.started.elapsed(),
                pods: self.site.pods_of(&self.id),
            },
            trailers: lines(trailers.as_ref()),
        })
    }

    /// The rest of the request; a peer that answered before it had all may have refused it.
    fn send_rest(&mut self, body: &[u8], trailers: &[(&'static str, String)]) -> Verdict {
        let body = Bytes::copy_from_slice(body);
        let sending = async {
            send_all(&mut self.send, body).await?;
            if trailers.is_empty() {
                return self.send.send_data(Bytes::new(), true);
            }
            let pairs = trailers.iter().filter_map(|(name, value)| {
                Some((
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).ok()?,
                ))
            });
            self.send.send_trailers(pairs.collect())
        };
        match run(&self.runtime, "send the body", sending) {
            // The answer, or the reset, says more.
            Err(_) if self.status().is_ok() => Ok(()),
            other => other,
        }
    }
}

/// A window that messages of some megabytes do not fit in.
const WINDOW: u32 = 256 << 10;
/// A stream that stalls takes its own window from it.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Waits for something, not for ever.
fn run<T, E: std::fmt::Display>(
    runtime: &Runtime,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    let limited = async { tokio::time::timeout(TIMEOUT, work).await };
    match runtime.block_on(limited) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(format!("{what}: {e}")),
        Err(_) => Err(format!("{what}: nothing within {TIMEOUT:?}")),
    }
}
