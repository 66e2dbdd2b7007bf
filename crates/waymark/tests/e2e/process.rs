//! Roles as processes of a test, without `waymark up`.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use waymark_testkit::mesh::Mesh;
use waymark_testkit::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        Mesh::signal(self.0.id(), signal);
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("process ends", LIMIT, || self.0.try_wait().unwrap()).0
    }
}
