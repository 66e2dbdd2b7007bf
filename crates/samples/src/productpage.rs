//! The web page and its JSON twin.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::client::Client;
use crate::page;
use crate::server::{Answer, AnswerFuture, Call, Handler, html, json as reply, not_found};

const PRODUCT_ID: u32 = 0;

pub(crate) struct ProductPage {
    client: Client,
}

impl ProductPage {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn fetch(&self, service: &str, path: &str, headers: &HeaderMap) -> (StatusCode, Value) {
        let unavailable = || {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                json!({"error": format!("Sorry, product {service} are currently unavailable for this book.")}),
            )
        };
        match self.client.get_json(service, path, headers).await {
            Some((StatusCode::OK, body)) => (StatusCode::OK, body),
            Some((status, _)) => (status, unavailable().1),
            None => unavailable(),
        }
    }

    async fn page(&self, headers: &HeaderMap) -> Answer {
        let details_path = format!("/details/{PRODUCT_ID}");
        let reviews_path = format!("/reviews/{PRODUCT_ID}");
        let (details, reviews) = tokio::join!(
            self.fetch("details", &details_path, headers),
            self.fetch("reviews", &reviews_path, headers),
        );
        html(page::render(&product(), &details, &reviews))
    }

    async fn api(&self, path: &str, headers: &HeaderMap) -> Answer {
        let mut parts = path.split('/');
        let (id, what) = (parts.next(), parts.next());
        let Some(id) = id.and_then(|id| id.parse::<u32>().ok()) else {
            return not_found();
        };
        let (status, body) = match what {
            None => {
                self.fetch("details", &format!("/details/{id}"), headers)
                    .await
            }
            Some("reviews") => {
                self.fetch("reviews", &format!("/reviews/{id}"), headers)
                    .await
            }
            Some("ratings") => {
                self.fetch("ratings", &format!("/ratings/{id}"), headers)
                    .await
            }
            Some(_) => return not_found(),
        };
        reply(status, &body)
    }
}

impl Handler for ProductPage {
    fn handle(&self, call: Call) -> AnswerFuture<'_> {
        Box::pin(async move {
            match call.path.as_str() {
                "/" | "/index.html" => html(page::index()),
                "/productpage" => self.page(&call.headers).await,
                "/api/v1/products" => reply(StatusCode::OK, &json!([product()])),
                path => match path.strip_prefix("/api/v1/products/") {
                    Some(rest) => self.api(rest, &call.headers).await,
                    None => not_found(),
                },
            }
        })
    }
}

fn product() -> Value {
    json!({
        "id": PRODUCT_ID,
        "title": "The Comedy of Errors",
        "descriptionHtml": "Two pairs of twins, one city, one day: everybody is taken for somebody else."
    })
}
