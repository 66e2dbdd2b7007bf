//! The only crate that may contain `unsafe`: system calls that no safe wrapper offers.
//!
//! Every function here is small, safe to call, and says next to its `unsafe` block why it is sound.
#![expect(
    unsafe_code,
    reason = "this crate exists to hold it; every block says why it is sound"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the child that `command` starts die (SIGKILL) when the thread that starts it ends.
///
/// The kernel ties the signal to the *thread* that forks, not to the process: start such children from a thread that
/// lives as long as the program (the main thread, or a runtime's core worker, never a blocking-pool thread).
/// A parent that is gone before the child asked is noticed too: the child then exits instead of running on unwatched.
/// Spec: `prctl(2)`, `PR_SET_PDEATHSIG`.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: runs between fork and exec, where only async-signal-safe calls are allowed: `prctl` and `getppid` are
        // plain system calls, take no pointers here, and nothing is allocated (`last_os_error` and `from_raw_os_error`
        // only wrap a number).
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            if u32::try_from(libc::getppid()).ok() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the hook upholds `pre_exec`'s contract as said above, and captures only a number.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`: a later `bind` to port 0 fixes the source address only, and the port is picked at
/// `connect`, where the kernel can share it between destinations. Without it each source address has ~28,000 ports in all.
///
/// # Errors
/// Whatever `setsockopt` answers (kernels before 4.2 do not know the option).
pub fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as it is borrowed; the pointer and the length describe `on`, which
    // outlives the call, and the kernel only reads it.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Brings the loopback interface of the current network namespace up: a new namespace has it down.
///
/// # Errors
/// Whatever the kernel answers; `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a value; `lo` and its terminating zero fit into the name.
    // Both calls get the address of a live `ifreq`, which is what these requests read and write, and the socket is open.
    let answer = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        let mut answer = libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request);
        if answer == 0 {
            request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
            answer = libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request);
        }
        answer
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the runtime watch a descriptor for readability: a pidfd, which is readable once its process has ended.
///
/// # Errors
/// When the kernel cannot poll it.
///
/// # Panics
/// Outside a tokio runtime.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the OwnedFd, which keeps the one descriptor open until it is dropped and always names it.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_child_that_dies_with_its_parent_starts_normally() {
        let mut command = Command::new("true");
        die_with_parent(&mut command);
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn bind_address_no_port_is_accepted_by_the_kernel() {
        let socket = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        bind_address_no_port(socket.as_fd()).unwrap();
    }
}
