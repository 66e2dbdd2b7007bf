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
            concurrency,
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

figures! {
    /// What configuration has cost (`waymark_config.<figure>`): ours, no figures of Envoy's. Resources that are sent again with
    /// the bytes they had count as unchanged and nothing else: they are recognised, and nothing is done.
    ConfigStats {
        counters {
            clusters_decoded,
            endpoints_decoded,
            listeners_decoded,
            routes_decoded,
            snapshots_published,
            unchanged,
        }
        gauges {
        }
    }
}

figures! {
    /// The figures of tunnels from clients (`listener.0.0.0.0_15008.<figure>`).
    TunnelStats {
        counters {
            downstream_cx_destroy,
            downstream_cx_total,
            downstream_rq_total,
            no_filter_chain_match,
            ssl_connection_error,
            ssl_fail_verify_error,
            ssl_fail_verify_san,
            ssl_handshake,
        }
        gauges {
            downstream_cx_active,
            downstream_rq_active,
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
    /// What configuration has cost.
    pub config: ConfigStats,
    /// Tunnels from clients.
    pub tunnels: TunnelStats,
    figures: ServerFigures,
}

impl std::ops::Deref for ServerStats {
    type Target = ServerFigures;

    fn deref(&self) -> &ServerFigures {
        &self.figures
    }
}
