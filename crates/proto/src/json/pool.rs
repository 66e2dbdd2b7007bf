//! The descriptors.

use std::collections::HashSet;
use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use super::JsonError;

/// The descriptor of a message type.
pub(super) fn descriptor(full_name: &str) -> Result<MessageDescriptor, JsonError> {
    find(full_name).ok_or_else(|| JsonError::UnknownType {
        type_name: full_name.to_owned(),
    })
}

/// The descriptor of a message type, if there is one.
pub(crate) fn find(full_name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(full_name)
}

/// Whether a message of this type can hold a map, and so can be encoded in more than one way.
pub(crate) fn may_hold_map(message: &MessageDescriptor) -> bool {
    static HOLDERS: OnceLock<HashSet<String>> = OnceLock::new();
    HOLDERS
        .get_or_init(|| map_holders(pool()))
        .contains(message.full_name())
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(DESCRIPTORS)
            .expect("descriptors.bin is what `xtask gen` wrote, and tests decode it")
    })
}

fn map_holders(pool: &DescriptorPool) -> HashSet<String> {
    let mut holders: HashSet<String> = HashSet::from(["google.protobuf.Any".to_owned()]);
    loop {
        let before = holders.len();
        for message in pool.all_messages() {
            let holds = message.fields().any(|field| {
                field.is_map() || matches!(field.kind(), Kind::Message(inner) if holders.contains(inner.full_name()))
            });
            if holds {
                holders.insert(message.full_name().to_owned());
            }
        }
        if holders.len() == before {
            return holders;
        }
    }
}

const DESCRIPTORS: &[u8] = include_bytes!("../gen/descriptors.bin");
