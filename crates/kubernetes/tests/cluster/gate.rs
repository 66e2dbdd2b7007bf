//! A way to the API server that can be shut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use waymark_rt::{Task, Tasks, spawn};

/// Passes on connections while it is open; shutting it cuts those that there are.
pub(crate) struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _task: Task<()>,
}

impl Gate {
    /// A way to `target`, open.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        let task = spawn("gate", async move {
            let ways = Tasks::new();
            while let Ok((client, _)) = listener.accept().await {
                if *is_open.borrow() {
                    ways.spawn("way", pass(client, target, is_open.clone()));
                }
            }
        });
        Self {
            address,
            open,
            _task: task,
        }
    }

    pub(crate) fn shut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// A kubeconfig like another, through this gate.
    pub(crate) fn kubeconfig(
        &self,
        through: &Path,
        directory: &Path,
        target: SocketAddr,
    ) -> PathBuf {
        let text = std::fs::read_to_string(through).unwrap();
        let path = directory.join("gate.kubeconfig");
        let text = text.replace(&target.to_string(), &self.address.to_string());
        std::fs::write(&path, text).unwrap();
        path
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, mut is_open: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = is_open.wait_for(|open| !open) => {}
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
    }
}
