//! Facts about a book.

use http::StatusCode;
use serde_json::json;

use crate::server::{AnswerFuture, Call, Handler, json as reply, not_found};

pub(crate) struct Details;

impl Handler for Details {
    fn handle(&self, call: Call) -> AnswerFuture<'_> {
        Box::pin(async move {
            let Some(id) = call.path.strip_prefix("/details/") else {
                return not_found();
            };
            let Ok(id) = id.parse::<u32>() else {
                return reply(
                    StatusCode::BAD_REQUEST,
                    &json!({"error": "please provide numeric product id"}),
                );
            };
            reply(
                StatusCode::OK,
                &json!({
                    "id": id,
                    "author": "William Shakespeare",
                    "year": 1595,
                    "type": "paperback",
                    "pages": 200,
                    "publisher": "PublisherA",
                    "language": "English",
                    "ISBN-10": "1234567890",
                    "ISBN-13": "123-1234567890"
                }),
            )
        })
    }
}
