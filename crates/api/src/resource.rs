//! All kinds in one type.

use std::sync::Arc;

use crate::gateway::{Gateway, GatewayClass, HttpRoute};
use crate::istio::{DestinationRule, ServiceEntry, VirtualService, WorkloadEntry};
use crate::k8s::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount};
use crate::meta::{Kind, ObjectKey, ObjectMeta};

macro_rules! resources {
    ($($kind:ident($type:ty)),* $(,)?) => {
        /// An object of the mesh, validated. Cheap to clone.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "the variants are named like the kinds that they hold")]
        pub enum Resource {
            $($kind(Arc<$type>)),*
        }

        impl Resource {
            /// Its kind.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind),*
                }
            }

            /// Its metadata.
            pub fn meta(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.meta),*
                }
            }
        }

        $(impl From<$type> for Resource {
            fn from(object: $type) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*
    };
}

resources! {
    Namespace(Namespace),
    Node(Node),
    ServiceAccount(ServiceAccount),
    Service(Service),
    Pod(Pod),
    EndpointSlice(EndpointSlice),
    GatewayClass(GatewayClass),
    Gateway(Gateway),
    HttpRoute(HttpRoute),
    WorkloadEntry(WorkloadEntry),
    ServiceEntry(ServiceEntry),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
}

impl Resource {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.kind(), self.meta())
    }
}
