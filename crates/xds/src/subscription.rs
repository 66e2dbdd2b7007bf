//! What an empty subscription means.

use waymark_proto::type_url;

/// Whether a type is subscribed to by name, so that an empty first subscription means nothing. Of all other types it means
/// everything.
pub(crate) fn is_by_name(type_url: &str) -> bool {
    matches!(
        type_url,
        type_url::ENDPOINT | type_url::ROUTE | type_url::SECRET | type_url::EXTENSION_CONFIG
    )
}
