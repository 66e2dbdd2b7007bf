//! The generated code of our own protos, in the package tree that it expects.
//!
//! Written by `cargo xtask gen`; this file only says where each package is.

pub mod envoy {
    pub mod tcp {
        pub mod metadataexchange {
            pub mod config {
                include!("gen/envoy.tcp.metadataexchange.config.rs");
            }
        }
    }
}

pub mod io {
    pub mod istio {
        pub mod http {
            pub mod peer_metadata {
                include!("gen/io.istio.http.peer_metadata.rs");
            }
        }
    }
}

pub mod istio {
    pub mod security {
        include!("gen/istio.security.rs");
    }
    pub mod v1 {
        pub mod auth {
            include!("gen/istio.v1.auth.rs");
        }
    }
    pub mod workload {
        include!("gen/istio.workload.rs");
    }
}

pub mod stats {
    include!("gen/stats.rs");
}

pub mod udpa {
    pub mod r#type {
        pub mod v1 {
            include!("gen/udpa.type.v1.rs");
        }
    }
}

pub mod waymark {
    pub mod workload {
        pub mod v1 {
            include!("gen/waymark.workload.v1.rs");
        }
    }
}

pub mod xds {
    pub mod r#type {
        pub mod matcher {
            pub mod v3 {
                include!("gen/xds.type.matcher.v3.rs");
            }
        }
        pub mod v3 {
            include!("gen/xds.type.v3.rs");
        }
    }
}
