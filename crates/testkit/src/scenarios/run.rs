//! Runs a list: several scenarios at a time, then one look at the access log.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::access_log::AccessLog;
use super::{Ground, Load, Scenario, Site, Verdict};
use crate::wait::until_or;

/// Most of what a scenario does is waiting.
const AT_A_TIME: usize = 4;
/// A waypoint writes its log now and then.
const LOG: Duration = Duration::from_secs(8);

/// What came of each, in the order of the list. `vip` tells the address of a service.
pub fn verdicts(
    scenarios: &[Scenario],
    ground: &Ground,
    access_log: &Path,
    vip: impl Fn(&str) -> IpAddr,
) -> Vec<Verdict> {
    let sites: Vec<Site<'_>> = (0..)
        .zip(scenarios)
        .map(|(place, scenario)| {
            let host = Scenario::host(place);
            let vip = vip(&host);
            Site::new(scenario, host, vip, ground)
        })
        .collect();
    let verdicts = Mutex::new(vec![Ok(()); scenarios.len()]);
    let run = |place: usize| {
        let verdict = (scenarios[place].run)(&sites[place]);
        verdicts.lock().unwrap_or_else(PoisonError::into_inner)[place] = verdict;
    };
    let (light, heavy): (Vec<usize>, Vec<usize>) =
        (0..scenarios.len()).partition(|place| scenarios[*place].load == Load::Light);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(place) = light.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(*place);
                }
            });
        }
    });
    heavy.into_iter().for_each(run);
    let mut verdicts = verdicts
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut logged = Vec::new();
    until_or(LOG, || {
        let log = AccessLog::read(access_log);
        logged = sites.iter().map(|site| site.logged(&log)).collect();
        logged
            .iter()
            .zip(&verdicts)
            .all(|(logged, verdict)| logged.is_ok() || verdict.is_err())
    });
    for (verdict, logged) in verdicts.iter_mut().zip(logged) {
        if verdict.is_ok() {
            *verdict = logged;
        }
    }
    verdicts
}
