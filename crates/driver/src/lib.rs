//! A worker thread of the data path: its event loop, its executor, and the byte streams on it.
//!
//! One [`Executor`] a thread, with tasks that never leave it. A turn of it takes the events of the sockets, runs every task
//! that can move, readers of connections after the work that they woke and writers last (see [`Level`]), and then waits for
//! events again. So a readable socket is drained once a turn and a socket is written once a turn, whatever the number of
//! streams on it, and nothing of the request path crosses a thread.
//!
//! [`Io`] is what everything above speaks: a byte stream with half-close both ways, whose peer may send only as much more as
//! was taken from it. Futures that need nothing but a [`Waker`](std::task::Waker) (channels, locks, combinators) run here;
//! what needs the tokio runtime does not.
#![forbid(unsafe_code)]

mod aside;
pub mod buffers;
mod executor;
pub mod h2;
pub mod http1;
pub mod io;
mod mailbox;
mod reactor;
pub mod socket;
mod socket_buffer;
pub mod tcp;
mod timer;
pub mod tls;

pub use aside::{Aside, aside};
pub use executor::{
    Executor, Level, Task, TaskError, Tasks, WeakTasks, now, spawn, spawn_at, wake_next_turn,
    yield_now,
};
pub use io::Io;
pub use mailbox::{Mailbox, Sender, mailbox};
pub use socket::Socket;
pub use tcp::{TcpListener, TcpStream};
pub use timer::{Elapsed, Sleep, sleep, sleep_until, timeout};
