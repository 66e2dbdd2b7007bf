//! What every program of the mesh runs on: named tasks with an owner, drain, sockets, log set-up, time, own resource usage.
//!
//! Knows nothing of the mesh.
#![forbid(unsafe_code)]

pub mod clock;
pub mod connect;
pub mod drain;
pub mod listen;
pub mod log;
pub mod task;
pub mod usage;

pub use clock::{Clock, ManualClock, SystemClock};
pub use connect::{ConnectError, ConnectOptions, connect};
pub use drain::{Drain, Drained, Shutdown};
pub use listen::{ListenError, ListenOptions, Listener, bind, listen};
pub use task::{Spawner, Task, TaskError, Tasks, spawn};
