//! Who listens on an address, for the text of an error.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// `name (pid N)` of a process that listens on `addr`, or on the wildcard with its port; `None` when the system does not
/// tell (another user's process).
pub(super) fn find(addr: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| {
            table
                .lines()
                .skip(1)
                .find_map(|line| listening_inode(line, addr))
        })?;
    let target = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if holds(&process.path().join("fd"), &target) {
            let command = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} (pid {pid})", command.trim_end()));
        }
    }
    None
}

/// The inode of one line of `/proc/net/tcp`, if it is a listening socket that covers `addr`.
fn listening_inode(line: &str, addr: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (host, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTEN || u16::from_str_radix(port, 16).ok()? != addr.port() {
        return None;
    }
    let any = host.bytes().all(|b| b == b'0');
    if !any && host != hex(addr.ip()) {
        return None;
    }
    fields.nth(5)?.parse().ok()
}

/// An address as the kernel prints it: 32-bit words in the machine's byte order.
fn hex(ip: IpAddr) -> String {
    let words = |bytes: &[u8]| {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
            .collect::<String>()
    };
    match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    }
}

fn holds(descriptors: &Path, target: &str) -> bool {
    fs::read_dir(descriptors).is_ok_and(|dir| {
        dir.flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == target))
    })
}
