//! What this process uses, for its metrics.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::time::{ClockId, clock_gettime};

/// The resources of the process, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is really there.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// User and system time of all threads since the start.
    pub cpu: Duration,
    /// Descriptors that are open.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
    /// When the process started, if the system tells.
    pub started: Option<SystemTime>,
}

/// Reads the resources of this process; what the system does not tell is zero.
pub fn of_this_process() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command name, in parentheses, may contain anything; what follows the last one are numbers from field 3 on.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    Usage {
        resident_bytes: field(24) * page_size() as u64,
        virtual_bytes: field(23),
        cpu: Duration::new(
            cpu.tv_sec.try_into().unwrap_or(0),
            cpu.tv_nsec.try_into().unwrap_or(0),
        ),
        open_fds: fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
        threads: field(20),
        started: boot_time().map(|boot| boot + ticks(field(22))),
    }
}

fn boot_time() -> Option<SystemTime> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn ticks(n: u64) -> Duration {
    let per_second = clock_ticks_per_second().max(1);
    Duration::from_millis(n.saturating_mul(1000) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_plausible_numbers() {
        let usage = of_this_process();
        assert!(
            usage.resident_bytes > 100_000 && usage.virtual_bytes >= usage.resident_bytes,
            "{usage:?}"
        );
        assert!(usage.open_fds >= 3 && usage.threads >= 1, "{usage:?}");
        let age = usage.started.and_then(|started| started.elapsed().ok());
        assert!(
            age.is_some_and(|age| age < Duration::from_secs(3600)),
            "{usage:?}"
        );
    }
}
