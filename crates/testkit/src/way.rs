//! A way to servers, as the address of a Service is one to its pods: connections are passed on, and can be cut.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Passes on connections to one of its targets by turns; to the next when one does not take it. Ends when it is dropped.
#[derive(Debug)]
pub struct Way {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    targets: Vec<SocketAddr>,
    turn: usize,
    open: bool,
    ended: bool,
    /// Both sides of what is being passed on.
    sockets: Vec<TcpStream>,
}

impl Way {
    /// A way that is open, at a loopback address.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn to(targets: &[SocketAddr]) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), targets)
    }

    /// A way that is open, at this address.
    ///
    /// # Panics
    /// When it cannot be listened on.
    #[must_use]
    pub fn at(address: SocketAddr, targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind(address).expect("listen");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            targets: targets.to_vec(),
            turn: 0,
            open: true,
            ended: false,
            sockets: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if lock(&shared).ended {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || pass_on(client, &shared));
            }
        });
        Self { address, state }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets where new connections lead.
    pub fn lead(&self, targets: &[SocketAddr]) {
        lock(&self.state).targets = targets.to_vec();
    }

    /// Cuts every connection; new ones are passed on.
    pub fn cut(&self) {
        cut(&mut lock(&self.state));
    }

    /// Cuts every connection, and takes no new ones.
    pub fn shut(&self) {
        let mut state = lock(&self.state);
        state.open = false;
        cut(&mut state);
    }

    /// Takes connections again.
    pub fn open(&self) {
        lock(&self.state).open = true;
    }

    /// A kubeconfig like another, in this directory, through this way instead of to `target`.
    ///
    /// # Panics
    /// When the files cannot be read or written.
    #[must_use]
    pub fn kubeconfig(&self, like: &Path, directory: &Path, target: SocketAddr) -> PathBuf {
        let text = std::fs::read_to_string(like).expect("read the kubeconfig");
        let path = directory.join("way.kubeconfig");
        let text = text.replace(&target.to_string(), &self.address.to_string());
        std::fs::write(&path, text).expect("write the kubeconfig");
        path
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.ended = true;
            cut(&mut state);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(state: &mut State) {
    for socket in state.sockets.drain(..) {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn pass_on(client: TcpStream, state: &Mutex<State>) {
    let Some(server) = connect(state) else {
        return;
    };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    {
        let mut state = lock(state);
        if !state.open || state.ended {
            return;
        }
        // What has ended on both sides has no peer any more.
        state.sockets.retain(|socket| socket.peer_addr().is_ok());
        state.sockets.extend([one, other]);
    }
    let back = thread::spawn(move || copy(to, from));
    copy(client, server);
    let _ = back.join();
}

fn connect(state: &Mutex<State>) -> Option<TcpStream> {
    let targets = {
        let mut state = lock(state);
        if !state.open || state.ended || state.targets.is_empty() {
            return None;
        }
        let turn = state.turn % state.targets.len();
        state.turn += 1;
        let mut targets = state.targets.clone();
        targets.rotate_left(turn);
        targets
    };
    targets
        .iter()
        .find_map(|target| TcpStream::connect_timeout(target, Duration::from_secs(1)).ok())
}

/// Until one side ends, which the other is told.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 << 10];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {
                // Broken, not ended: so is the other side.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        if to.write_all(bytes.get(..read).unwrap_or_default()).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(says: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let clients: Vec<TcpStream> = listener
                .incoming()
                .map_while(Result::ok)
                .inspect(|mut client| drop(client.write_all(says)))
                .collect();
            drop(clients);
        });
        address
    }

    fn said(client: &mut TcpStream) -> Vec<u8> {
        let mut bytes = [0; 1];
        let read = client.read(&mut bytes).unwrap_or(0);
        bytes[..read].to_vec()
    }

    #[test]
    fn leads_to_each_by_turns_and_past_those_that_are_away() {
        let nobody = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
            listener.local_addr().expect("an address")
        };
        let way = Way::to(&[server(b"a"), nobody, server(b"b")]);
        let heard: Vec<Vec<u8>> = (0..6)
            .map(|_| said(&mut TcpStream::connect(way.address()).expect("connect")))
            .collect();
        let of = |what: &[u8]| heard.iter().filter(|heard| **heard == what).count();
        assert_eq!((of(b"a"), of(b"b")), (2, 4), "{heard:?}");
    }

    #[test]
    fn is_cut_and_shut_and_opened() {
        let way = Way::to(&[server(b"a")]);
        let connect = || TcpStream::connect(way.address()).expect("connect");
        let mut client = connect();
        assert_eq!(said(&mut client), b"a");
        way.cut();
        assert_eq!(said(&mut client), b"");
        assert_eq!(said(&mut connect()), b"a");
        way.shut();
        assert_eq!(said(&mut connect()), b"");
        way.open();
        assert_eq!(said(&mut connect()), b"a");
    }
}
