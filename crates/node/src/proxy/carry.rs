//! Carries the bytes of a connection until it ends, or may not go on.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};

use waymark_driver::tcp::Accepted;
use waymark_driver::{Io, Socket, TcpStream, aside};
use waymark_hbone::{CopyOutcome, Tunnel, copy_bidirectional};

use super::Proxy;
use crate::policy::{self, Connection, Verdict};
use crate::state::Uid;
use crate::telemetry::{Open, Outcome, ResponseFlag};

/// The far side of a connection.
pub(super) enum FarSide {
    /// In clear.
    Tcp(Socket),
    /// A tunnel.
    Tunnel(Box<Tunnel>),
}

/// The near side of a captured connection, from when it has a far side. `None` when it is gone.
pub(super) fn near(accepted: Accepted) -> Option<Socket> {
    let peer = accepted.peer_addr();
    match TcpStream::adopt(accepted).and_then(Socket::plain) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::debug!(%peer, %error, "accepted connection is gone");
            None
        }
    }
}

impl Io for FarSide {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self {
            Self::Tcp(socket) => socket.poll_fill_more(have, cx),
            Self::Tunnel(tunnel) => tunnel.poll_fill_more(have, cx),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Self::Tcp(socket) => socket.consume(bytes),
            Self::Tunnel(tunnel) => tunnel.consume(bytes),
        }
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => socket.poll_put(bytes, cx),
            Self::Tunnel(tunnel) => tunnel.poll_put(bytes, cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_finish(cx),
            Self::Tunnel(tunnel) => tunnel.poll_finish(cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Tcp(socket) => socket.abort(),
            Self::Tunnel(tunnel) => tunnel.abort(),
        }
    }
}

/// What a connection was admitted by, to be judged again when policies change.
pub(super) struct Admission {
    pub(super) workload: Uid,
    pub(super) connection: Connection,
    /// Delivered to the application, so that ALLOW policies are judged as well.
    pub(super) delivered: bool,
}

impl Admission {
    /// What the policies say now. A workload that is gone has nothing to say: its connections end by themselves.
    pub(super) fn judge(&self, proxy: &Proxy) -> Verdict {
        let store = proxy.shared.state.load();
        let Some(workload) = store.workload(self.workload.as_str()) else {
            return Verdict::Allowed;
        };
        if self.delivered {
            policy::check(&store, workload, &self.connection)
        } else {
            policy::check_deny(&store, workload, &self.connection)
        }
    }

    /// Resolves when the connection may not go on.
    async fn revoked(&self, proxy: &Proxy) {
        let mut changes = proxy.shared.state.policy_epoch();
        loop {
            match self.judge(proxy) {
                // A policy that is on its way will come with the next change.
                Verdict::Allowed | Verdict::Unknown(_) => {}
                Verdict::DeniedBy(_) | Verdict::NotAllowed => return,
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Proxy {
    /// Carries an admitted connection of a local workload.
    pub(super) async fn carry_admitted<S: Io>(
        &self,
        near: &mut S,
        far: &mut FarSide,
        open: Open,
        admission: &Admission,
    ) {
        self.carry(near, far, open, admission.revoked(self)).await;
    }

    /// Carries a connection until both sides have ended, the drain's deadline has passed, or `revoked` resolves.
    pub(super) async fn carry<S: Io>(
        &self,
        near: &mut S,
        far: &mut FarSide,
        open: Open,
        revoked: impl Future<Output = ()>,
    ) {
        let outcome = {
            let copy = copy_bidirectional(near, far, open.counters());
            // Both are asked once, and not again for each packet.
            let (killed, revoked) = (aside(self.shared.shutdown.killed()), aside(revoked));
            tokio::select! {
                biased;
                () = killed => {
                    Outcome::Broken(ResponseFlag::None, "connection failed to drain within the timeout".to_owned())
                }
                () = revoked => {
                    Outcome::Broken(ResponseFlag::Deny, "connection closed due to policy change".to_owned())
                }
                CopyOutcome { error, .. } = copy => match error {
                    None => Outcome::Complete,
                    Some(error) => Outcome::Broken(ResponseFlag::None, error.to_string()),
                },
            }
        };
        open.finish(outcome);
    }
}
