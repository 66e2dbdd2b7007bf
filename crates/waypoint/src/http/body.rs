//! Bodies: requests that can be sent again, and responses that are watched to their end.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::timers::Timer;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client's request broke off.
    #[error("request body")]
    Downstream(#[source] hyper::Error),
    /// The upstream's response broke off.
    #[error("response body")]
    Upstream(#[source] hyper::Error),
    /// The attempt was given up; another one has the body now.
    #[error("the attempt was given up")]
    Superseded,
    /// A timer of the route or chain ended it.
    #[error("{0}")]
    Timeout(Timer),
}

/// When a stream last moved, where anybody wants to know.
pub(crate) type Activity = Rc<Cell<Instant>>;

fn touch(activity: Option<&Activity>) {
    if let Some(activity) = activity {
        activity.set(Instant::now());
    }
}

/// A request's body, shared by the attempts to forward it: what was read is kept for the next attempt, up to a limit.
#[derive(Clone)]
pub(crate) struct RequestBody {
    state: Rc<RefCell<State>>,
}

struct State {
    source: Incoming,
    /// What was read, while it can be sent again.
    kept: Option<Vec<Kept>>,
    kept_bytes: usize,
    keep_limit: usize,
    /// The attempt that may read from the source.
    attempt: u32,
    bytes: u64,
    broken: bool,
    ended_at: Option<Instant>,
    waiting_for_end: Vec<Waker>,
    activity: Option<Activity>,
}

enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl RequestBody {
    /// Keeps up to `keep_limit` bytes; 0 keeps nothing, and then there is one attempt.
    pub(crate) fn new(source: Incoming, keep_limit: usize, activity: Option<Activity>) -> Self {
        let ended = source.is_end_stream();
        Self {
            state: Rc::new(RefCell::new(State {
                kept: (keep_limit > 0 || ended).then(Vec::new),
                kept_bytes: 0,
                keep_limit,
                attempt: 0,
                bytes: 0,
                broken: false,
                ended_at: ended.then(Instant::now),
                waiting_for_end: Vec::new(),
                activity,
                source,
            })),
        }
    }

    /// Whether the request has no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        state.ended_at.is_some()
            && state.bytes == 0
            && state.kept.as_ref().is_none_or(Vec::is_empty)
    }

    /// Whether another attempt can have the whole body.
    pub(crate) fn can_repeat(&self) -> bool {
        let state = self.state.borrow();
        state.kept.is_some() && !state.broken
    }

    /// Bytes received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.borrow().bytes
    }

    /// Whether the client broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.borrow().broken
    }

    /// When the request was complete, if it is.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.state.borrow().ended_at
    }

    /// Waits until the request is complete.
    pub(crate) fn ended(&self) -> impl Future<Output = Instant> + use<> {
        let state = Rc::clone(&self.state);
        std::future::poll_fn(move |cx| {
            let mut state = state.borrow_mut();
            match state.ended_at {
                Some(at) => Poll::Ready(at),
                None => {
                    state.waiting_for_end.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// The body for the next attempt; the one before gets no more. `gate` holds everything back until it opens.
    pub(crate) fn attempt(&self, trailers: Trailers, gate: Option<Arc<Gate>>) -> UpstreamBody {
        if self.is_empty() {
            return UpstreamBody::Empty;
        }
        let mut state = self.state.borrow_mut();
        state.attempt += 1;
        UpstreamBody::Attempt(AttemptBody {
            attempt: state.attempt,
            state: Rc::clone(&self.state),
            at: 0,
            trailers,
            gate,
            ended: false,
        })
    }
}

impl State {
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                touch(self.activity.as_ref());
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                    self.keep(Kept::Data(data.clone()), data.len());
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.keep(Kept::Trailers(trailers.clone()), 0);
                }
                if self.source.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.broken = true,
            None => self.end(),
        }
        Poll::Ready(frame.map(|f| f.map_err(BodyError::Downstream)))
    }

    fn keep(&mut self, frame: Kept, len: usize) {
        self.kept_bytes += len;
        if self.kept_bytes > self.keep_limit {
            self.kept = None; // too large to be sent again: from here on it is streamed only
        } else if let Some(kept) = &mut self.kept {
            kept.push(frame);
        }
    }

    fn end(&mut self) {
        if self.ended_at.is_none() {
            self.ended_at = Some(Instant::now());
            self.waiting_for_end.drain(..).for_each(Waker::wake);
        }
    }
}

/// Whether trailers can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trailers {
    /// HTTP/2.
    Forward,
    /// HTTP/1: they are read and dropped.
    Drop,
}

/// What goes upstream.
pub(crate) enum UpstreamBody {
    /// Nothing.
    Empty,
    /// The client's body.
    Attempt(AttemptBody),
}

/// The body of one attempt.
pub(crate) struct AttemptBody {
    state: Rc<RefCell<State>>,
    attempt: u32,
    at: usize,
    trailers: Trailers,
    gate: Option<Arc<Gate>>,
    ended: bool,
}

impl AttemptBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        let mut state = self.state.borrow_mut();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let kept = state.kept.as_ref();
        if let Some(frame) = kept.and_then(|kept| kept.get(self.at)) {
            let frame = match frame {
                Kept::Data(data) => Frame::data(data.clone()),
                Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
            };
            self.at += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.ended_at.is_some() {
            return Poll::Ready(None);
        }
        self.at += 1;
        state.poll_source(cx).map(|frame| {
            if frame.is_none() {
                self.at -= 1;
            }
            frame
        })
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Attempt(body) = self.get_mut() else {
            return Poll::Ready(None);
        };
        loop {
            let at = body.at;
            let frame = match body.poll_next(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    body.at = at;
                    return Poll::Pending;
                }
            };
            match &frame {
                Some(Ok(frame)) if frame.is_trailers() && body.trailers == Trailers::Drop => {
                    continue;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => body.ended = true,
            }
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Attempt(body) => {
                let state = body.state.borrow();
                let all = state.kept.as_ref().is_none_or(|kept| body.at >= kept.len());
                body.ended || (state.attempt == body.attempt && state.ended_at.is_some() && all)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Attempt(body) => {
                let state = body.state.borrow();
                // `Incoming` counts down while it is read: an attempt begins with what is kept in front of it.
                let before: u64 = state.kept.as_ref().map_or(0, |kept| {
                    let rest = kept.iter().skip(body.at);
                    rest.map(|k| match k {
                        Kept::Data(data) => data.len() as u64,
                        Kept::Trailers(_) => 0,
                    })
                    .sum()
                });
                match state.source.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(before + rest),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

/// Holds a request's body back until the upstream asks for it (`Expect: 100-continue`).
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    /// Lets the body go.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.open.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// What goes downstream.
pub(crate) struct DownstreamBody {
    kind: Kind,
}

enum Kind {
    Own(Option<Bytes>),
    Upstream(Box<Relayed>),
}

/// An upstream's body with what waits for its end.
struct Relayed {
    body: Incoming,
    trailers: Trailers,
    limit: Option<Limit>,
    watch: Option<Box<dyn Watch>>,
    bytes: Rc<Cell<u64>>,
    activity: Option<Activity>,
}

/// Timers that go on while a response is sent; resolves to the one that ran out.
pub(crate) type Limit = Pin<Box<dyn Future<Output = Timer>>>;

/// Is told once how a response ended; dropping it untold means that the client left.
pub(crate) trait Watch {
    /// The body is over: all of it, or not.
    fn ended(self: Box<Self>, how: BodyEnd<'_>);
}

/// How a response's body ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodyEnd<'a> {
    /// Completely, with these trailers.
    Complete(Option<&'a HeaderMap>),
    /// The upstream broke off.
    Upstream(&'a hyper::Error),
    /// A timer ended it, for this reason.
    Timeout(Timer),
    /// The client did not take all of it.
    Downstream,
}

impl DownstreamBody {
    /// A body of our own.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Own((!bytes.is_empty()).then_some(bytes)),
        }
    }

    /// The upstream's body. `bytes` counts what was passed on.
    pub(crate) fn relayed(
        body: Incoming,
        trailers: Trailers,
        limit: Option<Limit>,
        watch: Box<dyn Watch>,
        bytes: Rc<Cell<u64>>,
        activity: Option<Activity>,
    ) -> Self {
        Self {
            kind: Kind::Upstream(Box::new(Relayed {
                body,
                trailers,
                limit,
                watch: Some(watch),
                bytes,
                activity,
            })),
        }
    }
}

impl Relayed {
    fn end(&mut self, how: BodyEnd<'_>) {
        self.limit = None;
        if let Some(watch) = self.watch.take() {
            watch.ended(how);
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(limit) = &mut self.limit
            && let Poll::Ready(why) = limit.as_mut().poll(cx)
        {
            self.end(BodyEnd::Timeout(why));
            return Poll::Ready(Some(Err(BodyError::Timeout(why))));
        }
        loop {
            return match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    touch(self.activity.as_ref());
                    if let Some(trailers) = frame.trailers_ref() {
                        self.end(BodyEnd::Complete(Some(trailers)));
                        if self.trailers == Trailers::Drop {
                            continue;
                        }
                    } else if let Some(data) = frame.data_ref() {
                        self.bytes.set(self.bytes.get() + data.len() as u64);
                    }
                    if self.body.is_end_stream() {
                        self.end(BodyEnd::Complete(None));
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(e)) => {
                    self.end(BodyEnd::Upstream(&e));
                    Poll::Ready(Some(Err(BodyError::Upstream(e))))
                }
                None => {
                    self.end(BodyEnd::Complete(None));
                    Poll::Ready(None)
                }
            };
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let how = if self.body.is_end_stream() {
            BodyEnd::Complete(None)
        } else {
            BodyEnd::Downstream
        };
        self.end(how);
    }
}

impl Body for DownstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().kind {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Upstream(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Upstream(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Upstream(relayed) => relayed.body.size_hint(),
        }
    }
}
