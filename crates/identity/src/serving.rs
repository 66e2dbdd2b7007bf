//! The certificate of a server of our own, signed by the authority in the same process.

use std::sync::Arc;

use tracing::{info, warn};
use waymark_rt::{Clock, Task, spawn};

use crate::ca::{Ca, ServingName, SignError};
use crate::store::{CertHandle, renew_after, sleep_until_wall};

/// Signs a certificate with these names and renews it before it ends, for as long as the task is kept.
///
/// # Errors
/// When the first one cannot be signed. Later failures are logged and tried again; the old one stays meanwhile.
///
/// # Panics
/// Outside a tokio runtime.
pub fn keep_serving(
    ca: Arc<Ca>,
    names: Vec<ServingName>,
    clock: Arc<dyn Clock>,
) -> Result<(CertHandle, Task<()>), SignError> {
    let handle = CertHandle::initializing(None);
    let first = ca.serving(&names, None)?;
    let mut renew_at = clock.wall() + renew_after(first.info().remaining(clock.wall()));
    handle.publish(Arc::new(first), Some(renew_at));
    let kept = handle.clone();
    let task = spawn("serving certificate", async move {
        loop {
            sleep_until_wall(&*clock, renew_at).await;
            match ca.serving(&names, None) {
                Ok(credentials) => {
                    let left = credentials.info().remaining(clock.wall());
                    renew_at = clock.wall() + renew_after(left);
                    info!(serial = %credentials.info().serial, valid_s = left.as_secs(), "serving certificate renewed");
                    kept.publish(Arc::new(credentials), Some(renew_at));
                }
                Err(e) => {
                    warn!(error = %e, "serving certificate not renewed");
                    renew_at = clock.wall() + RETRY;
                }
            }
        }
    });
    Ok((handle, task))
}

const RETRY: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::{Duration, SystemTime};

    use waymark_rt::ManualClock;

    use super::*;
    use crate::spiffe::TrustDomain;
    use crate::store::CertState;

    #[tokio::test(start_paused = true)]
    async fn is_renewed_before_it_ends() {
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let ca = Arc::new(Ca::in_memory(&TrustDomain::default(), Arc::clone(&clock) as _).unwrap());
        let names = vec![ServingName::Dns("istiod.istio-system.svc".to_owned())];
        let (handle, _task) = keep_serving(ca, names, Arc::clone(&clock) as _).unwrap();
        let first = handle.current().unwrap().info().serial.clone();
        clock.advance(Duration::from_secs(13 * 3600));
        let mut states = handle.subscribe();
        let renewed = |s: &CertState| matches!(s, CertState::Available { credentials, .. } if credentials.info().serial != first);
        states.wait_for(renewed).await.unwrap();
    }
}
