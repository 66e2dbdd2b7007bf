//! Stars by reviewer; a POST replaces those of a product.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{AnswerFuture, Call, Handler, json as reply, not_found};

/// Products whose ratings can be replaced; more are refused, so that memory stays bounded.
const MAX_PRODUCTS: usize = 1000;

#[derive(Default)]
pub(crate) struct Ratings {
    posted: Mutex<BTreeMap<u32, Value>>,
}

impl Ratings {
    fn answer(&self, call: &Call) -> crate::server::Answer {
        let Some(id) = call.path.strip_prefix("/ratings/") else {
            return not_found();
        };
        let Ok(id) = id.parse::<u32>() else {
            return reply(
                StatusCode::BAD_REQUEST,
                &json!({"error": "please provide numeric product ID"}),
            );
        };
        let mut posted = self.posted.lock().unwrap_or_else(|e| e.into_inner());
        if call.method == Method::POST {
            let Ok(Value::Object(ratings)) = serde_json::from_slice(&call.body) else {
                return reply(
                    StatusCode::BAD_REQUEST,
                    &json!({"error": "please provide valid ratings JSON"}),
                );
            };
            if posted.len() >= MAX_PRODUCTS && !posted.contains_key(&id) {
                return reply(
                    StatusCode::INSUFFICIENT_STORAGE,
                    &json!({"error": "too many products"}),
                );
            }
            posted.insert(id, Value::Object(ratings));
        }
        let ratings = posted
            .get(&id)
            .cloned()
            .unwrap_or_else(|| json!({"Reviewer1": 5, "Reviewer2": 4}));
        reply(StatusCode::OK, &json!({"id": id, "ratings": ratings}))
    }
}

impl Handler for Ratings {
    fn handle(&self, call: Call) -> AnswerFuture<'_> {
        Box::pin(async move { self.answer(&call) })
    }
}
