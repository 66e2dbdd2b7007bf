//! The figures of the process.

use crate::telemetry::stats::figures;

figures! {
    /// The figures of one kind of update (`cluster_manager.cds.<figure>`, `listener_manager.lds.<figure>`).
    UpdateStats {
        counters {
            update_attempt,
            update_failure,
            update_rejected,
            update_success,
        }
        gauges {
        }
    }
}

figures! {
    /// The figures of the process; [`ServerStats::all`] gives them their Envoy names.
    ServerFigures {
        counters {
            cluster_added,
            cluster_modified,
            cluster_removed,
            listener_added,
            listener_modified,
            listener_removed,
        }
        gauges {
            active_clusters,
            connected_state,
            days_until_first_cert_expiring,
            state,
            total_connections,
            total_listeners_active,
            total_listeners_draining,
            total_listeners_warming,
            warming_clusters,
            workers_started,
        }
    }
}

/// The figures of the process.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Cluster updates.
    pub cds: UpdateStats,
    /// Listener updates.
    pub lds: UpdateStats,
    figures: ServerFigures,
}

impl std::ops::Deref for ServerStats {
    type Target = ServerFigures;

    fn deref(&self) -> &ServerFigures {
        &self.figures
    }
}
