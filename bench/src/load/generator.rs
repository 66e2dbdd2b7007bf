//! Lanes, each with one request at a time, over connections and tunnels that are opened for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::ClientConfig;
use waymark_engine::h2::{self, Event, StreamRef};

use super::lane::{Done, Tunnel};
use super::{LoadArgs, LoadError, Measured, Mode};
use crate::hub::{End, Hub, LinkError, LinkId, Role};
use crate::process;
use crate::timer::Timer;

const HIGHEST_US: u64 = 60_000_000;
const PATIENCE: Duration = Duration::from_secs(20);
/// The same while the proxy is slowed down fifty times by what counts.
const PATIENCE_COUNTED: Duration = Duration::from_secs(180);
/// A lane whose request failed asks again after this, lest a proxy that refuses all keeps us busy.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

pub(super) fn run(args: &LoadArgs, tls: Arc<ClientConfig>) -> Result<Measured, LoadError> {
    let mut hub = Hub::new()?;
    let mut generator = Generator::new(args, tls, Timer::new(hub.registry())?);
    generator.set_up(&mut hub)?;
    let start = Instant::now();
    let exact = args.requests.is_some();
    let warm_up = Duration::from_secs_f64(if exact { 0.0 } else { args.warm_up });
    let until = start + warm_up + Duration::from_secs_f64(args.seconds);
    generator.phase = Phase::WarmUp;
    generator.begin(&mut hub, start);
    while Instant::now() < start + warm_up {
        generator.turn(&mut hub)?;
    }
    generator.phase = Phase::Measuring;
    let measured_from = Instant::now();
    let before = args.pid.map(process::threads);
    while if exact {
        generator.answered < generator.wanted
    } else {
        Instant::now() < until
    } {
        generator.turn(&mut hub)?;
    }
    let seconds = measured_from.elapsed().as_secs_f64();
    let after = args.pid.map(process::threads);
    let rss_mib = args.pid.map(process::rss_mib);
    Ok(generator.measured(seconds, before.zip(after), rss_mib))
}

#[derive(PartialEq, Eq)]
enum Phase {
    SetUp,
    WarmUp,
    Measuring,
}

struct Generator {
    args: LoadArgs,
    tls: Arc<ClientConfig>,
    inner: Arc<h2::Config>,
    phase: Phase,
    lanes: Vec<Lane>,
    /// The connections that stay, unless each request has its own.
    ports: Vec<Port>,
    /// By connection and slot.
    tunnels: Vec<Vec<Option<Owned>>>,
    open_tunnels: usize,
    done: Vec<Done>,
    /// Owners whose tunnel is gone.
    lost: Vec<usize>,
    /// By owner, where its tunnel is.
    places: Vec<Option<(LinkId, StreamRef)>>,
    /// Owners whose tunnel ended as it should, and on what connection.
    ended: Vec<(LinkId, usize)>,
    /// Lanes that wait before they ask again.
    resting: VecDeque<(Instant, usize)>,
    pace: Option<Pace>,
    timer: Timer,
    /// How many requests are to be sent, and how many were.
    wanted: u64,
    asked: u64,
    answered: u64,
    latencies: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
    last_answer: Instant,
}

/// One request at a time.
#[derive(Default)]
struct Lane {
    asked: Option<Instant>,
    /// When requests were due that have to wait for the one under way.
    backlog: VecDeque<Instant>,
}

struct Port {
    link: Option<LinkId>,
    served: u64,
}

/// A tunnel and whose it is: a group of lanes, or a lane where each request has its own tunnel.
struct Owned {
    tunnel: Tunnel,
    owner: usize,
}

struct Pace {
    every: Duration,
    next: Instant,
    lane: usize,
}

impl Generator {
    fn new(args: &LoadArgs, tls: Arc<ClientConfig>, timer: Timer) -> Self {
        let tunnels = args.connections * args.streams;
        let lanes = match args.mode {
            Mode::Requests => tunnels * args.inner_streams.max(1),
            Mode::Connects | Mode::Connections => tunnels,
        };
        Self {
            args: args.clone(),
            tls,
            inner: Arc::new(crate::hub::config()),
            phase: Phase::SetUp,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            ports: Vec::new(),
            tunnels: Vec::new(),
            open_tunnels: 0,
            done: Vec::new(),
            lost: Vec::new(),
            places: vec![None; tunnels],
            ended: Vec::new(),
            resting: VecDeque::new(),
            pace: None,
            timer,
            wanted: args.requests.unwrap_or(u64::MAX),
            asked: 0,
            answered: 0,
            latencies: Histogram::new_with_bounds(1, HIGHEST_US, 3)
                .expect("bounds that are in order"),
            failed: 0,
            first_failure: None,
            last_answer: Instant::now(),
        }
    }

    /// Opens what stays open.
    fn set_up(&mut self, hub: &mut Hub) -> Result<(), LoadError> {
        if self.args.mode == Mode::Connections {
            return Ok(());
        }
        for port in 0..self.args.connections {
            self.ports.push(Port {
                link: None,
                served: 0,
            });
            self.open_port(port, hub)?;
            // Not all at once: a listener's queue is short.
            if self.args.mode == Mode::Requests && port % 16 == 15 {
                self.await_tunnels((port - 8) * self.args.streams, hub)?;
            }
        }
        if self.args.mode == Mode::Requests {
            self.await_tunnels(self.args.connections * self.args.streams, hub)?;
        }
        Ok(())
    }

    fn await_tunnels(&mut self, count: usize, hub: &mut Hub) -> Result<(), LoadError> {
        while self.open_tunnels < count {
            self.turn(hub)?;
        }
        Ok(())
    }

    fn open_port(&mut self, port: usize, hub: &mut Hub) -> Result<(), LinkError> {
        let link = hub.dial(self.args.target, self.args.source, &self.tls)?;
        self.ports[port] = Port {
            link: Some(link),
            served: 0,
        };
        if self.args.mode == Mode::Requests {
            for owner in port * self.args.streams..(port + 1) * self.args.streams {
                self.connect(owner, link, hub);
            }
        }
        Ok(())
    }

    /// Asks for a tunnel for `owner`.
    fn connect(&mut self, owner: usize, link: LinkId, hub: &mut Hub) -> Option<StreamRef> {
        let end = hub.end(link)?;
        match Tunnel::connect(end, &self.args.authority, self.args.inner, &self.inner) {
            Ok(tunnel) => {
                let stream = tunnel.stream;
                if self.tunnels.len() <= link.0 {
                    self.tunnels.resize_with(link.0 + 1, Vec::new);
                }
                let slots = &mut self.tunnels[link.0];
                if slots.len() <= stream.slot() {
                    slots.resize_with(stream.slot() + 1, || None);
                }
                slots[stream.slot()] = Some(Owned { tunnel, owner });
                self.places[owner] = Some((link, stream));
                Some(stream)
            }
            Err(error) => {
                self.first_failure.get_or_insert(error.to_string());
                self.lost.push(owner);
                None
            }
        }
    }

    fn begin(&mut self, hub: &mut Hub, now: Instant) {
        self.last_answer = now;
        if self.args.rate > 0 {
            self.pace = Some(Pace {
                every: Duration::from_secs(1) / self.args.rate,
                next: now,
                lane: 0,
            });
        } else {
            for lane in 0..self.lanes.len() {
                self.ask(lane, now, hub);
            }
        }
    }

    fn turn(&mut self, hub: &mut Hub) -> Result<(), LoadError> {
        let patience = match self.args.requests {
            Some(_) => PATIENCE_COUNTED,
            None => PATIENCE,
        };
        if self.last_answer.elapsed() > patience {
            let why = self.first_failure.clone().unwrap_or_default();
            return Err(LoadError::Stuck(why));
        }
        hub.turn(self, Some(Duration::from_millis(10)))?;
        Ok(())
    }

    /// Sends a request that was due at `due`.
    fn ask(&mut self, lane: usize, due: Instant, hub: &mut Hub) {
        if self.asked >= self.wanted {
            return;
        }
        self.asked += 1;
        self.lanes[lane].asked = Some(due);
        let place = match self.args.mode {
            Mode::Requests => self.places[lane / self.args.inner_streams.max(1)],
            Mode::Connects => self.ports[lane / self.args.streams]
                .link
                .and_then(|link| Some((link, self.connect(lane, link, hub)?))),
            Mode::Connections => hub
                .dial(self.args.target, self.args.source, &self.tls)
                .ok()
                .and_then(|link| Some((link, self.connect(lane, link, hub)?))),
        };
        let asked = match place {
            Some((link, stream)) => match (self.tunnels.get_mut(link.0), hub.end(link)) {
                (Some(slots), Some(end)) => match &mut slots[stream.slot()] {
                    Some(owned) => owned.tunnel.ask(lane, end),
                    None => Err("the tunnel is gone".into()),
                },
                _ => Err("the connection is gone".into()),
            },
            None => Err("no tunnel".into()),
        };
        if let Err(why) = asked {
            self.done.push((lane, Err(why)));
        }
    }

    fn owned(&mut self, link: LinkId, stream: StreamRef) -> Option<&mut Owned> {
        let slot = self.tunnels.get_mut(link.0)?.get_mut(stream.slot())?;
        slot.as_mut().filter(|owned| owned.tunnel.stream == stream)
    }

    /// A tunnel ended without being asked to, or was refused.
    fn lose(&mut self, link: LinkId, stream: StreamRef, why: &str) {
        let Some(slot) = self.tunnels.get_mut(link.0) else {
            return;
        };
        if let Some(owned) = slot[stream.slot()].take() {
            let waiting = owned.tunnel.waiting().into_iter();
            self.done
                .extend(waiting.map(|lane| (lane, Err(why.to_owned()))));
            self.places[owned.owner] = None;
            self.lost.push(owned.owner);
        }
    }

    /// A lane's request has its answer, or won't have one.
    fn finish(&mut self, lane: usize, went: Result<(), String>, now: Instant, hub: &mut Hub) {
        if self.args.mode != Mode::Requests
            && let Some((link, stream)) = self.places[lane]
        {
            if went.is_ok() {
                return self.end_tunnel(lane, link, stream, hub); // counts once that has ended
            }
            self.drop_tunnel(lane, link, stream, hub);
        }
        self.complete(lane, went, now, hub);
    }

    fn end_tunnel(&mut self, lane: usize, link: LinkId, stream: StreamRef, hub: &mut Hub) {
        match (self.owned(link, stream), hub.end(link)) {
            (Some(owned), Some(end)) => owned.tunnel.end(end),
            _ => self.ended.push((link, lane)),
        }
    }

    fn drop_tunnel(&mut self, lane: usize, link: LinkId, stream: StreamRef, hub: &mut Hub) {
        self.places[lane] = None;
        if self.args.mode == Mode::Connections {
            hub.close(link);
        } else if let Some(end) = hub.end(link) {
            end.h2.reset(stream, h2::ErrorCode::CANCEL, &mut end.out);
        }
        if let Some(slot) = self.tunnels[link.0].get_mut(stream.slot()) {
            *slot = None;
        }
    }

    fn complete(&mut self, lane: usize, went: Result<(), String>, now: Instant, hub: &mut Hub) {
        let Some(due) = self.lanes[lane].asked.take() else {
            return;
        };
        self.answered += 1;
        let failed = went.is_err();
        match went {
            Ok(()) => {
                self.last_answer = now;
                if self.phase == Phase::Measuring {
                    let us = now.saturating_duration_since(due).as_micros();
                    let us = u64::try_from(us).unwrap_or(HIGHEST_US).max(1);
                    self.latencies.saturating_record(us);
                }
            }
            Err(why) => {
                if self.phase == Phase::Measuring {
                    self.failed += 1;
                }
                self.first_failure.get_or_insert(why);
            }
        }
        if failed {
            self.resting.push_back((now + AFTER_FAILURE, lane));
        } else if !self.churns(lane, hub) {
            self.next(lane, now, hub);
        }
    }

    fn next(&mut self, lane: usize, now: Instant, hub: &mut Hub) {
        if self.pace.is_none() {
            self.ask(lane, now, hub);
        } else if let Some(due) = self.lanes[lane].backlog.pop_front() {
            self.ask(lane, due, hub);
        }
    }

    /// Whether the lane's connection has served its time: it is replaced once all its lanes are idle.
    fn churns(&mut self, lane: usize, hub: &mut Hub) -> bool {
        let (Some(churn), Mode::Requests) = (self.args.churn, self.args.mode) else {
            return false;
        };
        let lanes_of_port = self.args.streams * self.args.inner_streams.max(1);
        let port = lane / lanes_of_port;
        self.ports[port].served += 1;
        if self.ports[port].served < churn + port as u64 * churn / 7 {
            return false;
        }
        let lanes = port * lanes_of_port..(port + 1) * lanes_of_port;
        let idle = |lane: usize| self.lanes[lane].asked.is_none();
        if lanes.clone().all(idle) {
            if let Some(link) = self.ports[port].link.take() {
                hub.close(link);
                self.tunnels[link.0] = Vec::new();
            }
            let _ = self.open_port(port, hub);
            let now = Instant::now();
            for lane in lanes {
                self.next(lane, now, hub);
            }
        }
        true
    }

    /// Opens tunnels, and connections, in the place of what is gone.
    fn replace_lost(&mut self, hub: &mut Hub) {
        for owner in std::mem::take(&mut self.lost) {
            if self.args.mode != Mode::Requests {
                continue; // the next request opens its own
            }
            let port = owner / self.args.streams;
            match self.ports[port].link {
                Some(link) if hub.end(link).is_some() => drop(self.connect(owner, link, hub)),
                _ => {
                    let _ = self.open_port(port, hub);
                }
            }
        }
    }

    /// Asks what is due; sets the timer for what is due next.
    fn keep_pace(&mut self, now: Instant, hub: &mut Hub) {
        let lanes = self.lanes.len();
        while let Some(pace) = self.pace.as_mut().filter(|pace| pace.next <= now) {
            let (due, lane) = (pace.next, pace.lane);
            pace.next += pace.every;
            pace.lane = (pace.lane + 1) % lanes;
            if self.lanes[lane].asked.is_some() || self.waits(lane) {
                self.lanes[lane].backlog.push_back(due);
            } else {
                self.ask(lane, due, hub);
            }
        }
        if let Some(pace) = &self.pace {
            self.timer.set(pace.next.saturating_duration_since(now));
        }
    }

    /// Whether the lane rests, or its connection is about to be replaced.
    fn waits(&self, lane: usize) -> bool {
        let lanes_of_port = self.args.streams * self.args.inner_streams.max(1);
        let churns = self.args.churn.is_some_and(|churn| {
            let port = lane / lanes_of_port;
            self.ports[port].served >= churn + port as u64 * churn / 7
        });
        churns || self.resting.iter().any(|&(_, resting)| resting == lane)
    }

    fn measured(
        &self,
        seconds: f64,
        threads: Option<(process::Threads, process::Threads)>,
        rss_mib: Option<f64>,
    ) -> Measured {
        let requests = self.latencies.len();
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let count = requests.max(1) as f64;
        let mut threads_us: Vec<f64> = threads
            .iter()
            .flat_map(|(before, after)| process::growth(before, after))
            .map(|grown| grown.as_secs_f64() * 1e6 / count)
            .collect();
        threads_us.sort_by(|a, b| b.total_cmp(a));
        #[expect(clippy::cast_precision_loss, reason = "latencies are small")]
        let ms = |us: u64| us as f64 / 1000.0;
        Measured {
            requests,
            failed: self.failed,
            first_failure: self.first_failure.clone(),
            per_second: count / seconds,
            cpu_us: threads.is_some().then(|| threads_us.iter().sum()),
            threads_us,
            p50_ms: ms(self.latencies.value_at_quantile(0.5)),
            p99_ms: ms(self.latencies.value_at_quantile(0.99)),
            max_ms: ms(self.latencies.max()),
            rss_mib,
        }
    }
}

impl Role for Generator {
    fn event(&mut self, hub: &mut Hub, id: LinkId, end: &mut End, event: Event<'_>) {
        match event {
            Event::Head { stream, end: last } => {
                let status = end.h2.head().status();
                if status != Some(200) || last {
                    return self.lose(id, stream, &format!("CONNECT was answered with {status:?}"));
                }
                if let Some(owned) = self.owned(id, stream) {
                    owned.tunnel.open = true;
                    owned.tunnel.send(end);
                    self.open_tunnels += 1;
                    self.last_answer = hub.now;
                }
            }
            Event::Data {
                stream,
                data,
                end: last,
            } => {
                end.h2.consume(stream, data.len(), &mut end.out);
                let mut done = std::mem::take(&mut self.done);
                if let Some(owned) = self.owned(id, stream) {
                    owned.tunnel.take_in(data, hub.now, &mut done);
                    owned.tunnel.send(end);
                    let (owner, ended) = (owned.owner, owned.tunnel.ended);
                    if last && ended {
                        self.ended.push((id, owner));
                        self.tunnels[id.0][stream.slot()] = None;
                        self.places[owner] = None;
                    } else if last {
                        self.done.append(&mut done);
                        self.lose(id, stream, "the tunnel ended");
                    }
                }
                self.done.append(&mut done);
            }
            Event::Writable { stream } => {
                if let Some(owned) = self.owned(id, stream) {
                    owned.tunnel.send(end);
                }
            }
            Event::Reset { stream, code, .. } => {
                self.lose(id, stream, &format!("the tunnel was reset: {code:?}"));
            }
            Event::Trailers { .. }
            | Event::Informational { .. }
            | Event::Settings
            | Event::Pong { .. }
            | Event::GoAway { .. } => {}
        }
    }

    fn closed(&mut self, _: &mut Hub, id: LinkId, error: Option<LinkError>) {
        let why = error.map_or_else(
            || String::from("the connection was closed"),
            |e| crate::chain(&e),
        );
        for port in &mut self.ports {
            if port.link == Some(id) {
                port.link = None;
            }
        }
        let gone = self.tunnels.get_mut(id.0).map(std::mem::take);
        for owned in gone.into_iter().flatten().flatten() {
            let waiting = owned.tunnel.waiting().into_iter();
            self.done
                .extend(waiting.map(|lane| (lane, Err(why.clone()))));
            self.places[owned.owner] = None;
            self.lost.push(owned.owner);
        }
    }

    fn woken(&mut self, hub: &mut Hub) {
        let now = Instant::now();
        self.replace_lost(hub);
        for (link, lane) in std::mem::take(&mut self.ended) {
            if self.args.mode == Mode::Connections {
                hub.close(link);
            }
            self.complete(lane, Ok(()), now, hub);
        }
        while let Some(&(at, lane)) = self.resting.front()
            && at <= now
        {
            self.resting.pop_front();
            self.next(lane, now, hub);
        }
        let mut done = std::mem::take(&mut self.done);
        for (lane, went) in done.drain(..) {
            self.finish(lane, went, now, hub);
        }
        self.done.append(&mut done);
        self.timer.clear();
        self.keep_pace(now, hub);
    }
}
