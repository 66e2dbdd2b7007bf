//! Two reviews: v1 without stars, v2 with black ones, v3 with red ones.

use http::StatusCode;
use serde_json::{Value, json};

use crate::client::Client;
use crate::server::{AnswerFuture, Call, Handler, json as reply, not_found};

const REVIEWS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "I laughed from the first page to the last. Nobody needs a reason to see this play twice.",
    ),
    (
        "Reviewer2",
        "Light, quick and kind. It is not his deepest play, but it is the one that I give to friends.",
    ),
];

pub(crate) struct Reviews {
    /// Colour of the stars; `None`: no stars, and `ratings` is not called.
    color: Option<&'static str>,
    pod_name: String,
    client: Client,
}

impl Reviews {
    pub(crate) fn new(version: &str, pod_name: String, client: Client) -> Self {
        let color = match version {
            "v2" => Some("black"),
            "v3" => Some("red"),
            _ => None,
        };
        Self {
            color,
            pod_name,
            client,
        }
    }

    fn rating(&self, reviewer: &str, ratings: Option<&Value>) -> Option<Value> {
        let color = self.color?;
        Some(
            match ratings.and_then(|r| r["ratings"][reviewer].as_i64()) {
                Some(stars) => json!({"stars": stars, "color": color}),
                None => json!({"error": "Ratings service is currently unavailable"}),
            },
        )
    }
}

impl Handler for Reviews {
    fn handle(&self, call: Call) -> AnswerFuture<'_> {
        Box::pin(async move {
            let Some(id) = call.path.strip_prefix("/reviews/") else {
                return not_found();
            };
            let ratings = match self.color {
                None => None,
                Some(_) => self
                    .client
                    .get_json("ratings", &format!("/ratings/{id}"), &call.headers)
                    .await
                    .filter(|(status, _)| *status == StatusCode::OK)
                    .map(|(_, body)| body),
            };
            let mut reviews = Vec::with_capacity(REVIEWS.len());
            for (reviewer, text) in REVIEWS {
                let mut review = json!({"reviewer": reviewer, "text": text});
                if let Some(rating) = self.rating(reviewer, ratings.as_ref()) {
                    review["rating"] = rating;
                }
                reviews.push(review);
            }
            reply(
                StatusCode::OK,
                &json!({
                    "id": id,
                    "podname": self.pod_name,
                    "clustername": "null",
                    "reviews": reviews
                }),
            )
        })
    }
}
