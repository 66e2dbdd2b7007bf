//! The HTML of the product page: one file, no scripts, nothing to fetch.

use http::StatusCode;
use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f6f7f9;color:#1c2733}\
main{max-width:58rem;margin:0 auto;padding:2rem 1.25rem}header{background:#1c2733;color:#fff;padding:.9rem 1.25rem}\
h1{margin:0 0 .25rem;font-size:1.9rem}h2{font-size:1.1rem;margin:0 0 .75rem}\
.cols{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1.25rem;margin-top:1.5rem}\
section{background:#fff;border:1px solid #e2e6ea;border-radius:.6rem;padding:1.25rem}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:0}dt{color:#5c6b7a}dd{margin:0}\
blockquote{margin:0 0 1rem;padding:0 0 0 1rem;border-left:3px solid #d3dae1}\
.by{color:#5c6b7a;font-size:.9rem}.stars{letter-spacing:.1em}.black{color:#1c2733}.red{color:#d3202f}\
.off{opacity:.25}.bad{color:#a11}footer{color:#5c6b7a;font-size:.85rem;margin-top:1.5rem}";

/// The page with details and reviews; what could not be fetched is said in its place.
pub(crate) fn render(
    product: &Value,
    details: &(StatusCode, Value),
    reviews: &(StatusCode, Value),
) -> String {
    let title = text(&product["title"]);
    let (pod, stars) = (
        text(&reviews.1["podname"]),
        reviews.1["reviews"][0].get("rating").is_some(),
    );
    let served_by = if reviews.0 == StatusCode::OK {
        let kind = if stars { "with stars" } else { "without stars" };
        format!("<footer>Reviews served by <b>{pod}</b> ({kind})</footer>")
    } else {
        String::new()
    };
    document(
        &title,
        &format!(
            "<h1>{title}</h1><p>{}</p><div class=cols><section><h2>Book details</h2>{}</section>\
             <section><h2>Book reviews</h2>{}</section></div>{served_by}",
            text(&product["descriptionHtml"]),
            render_details(details),
            render_reviews(reviews),
        ),
    )
}

/// The start page.
pub(crate) fn index() -> String {
    document(
        "Bookinfo",
        "<h1>Bookinfo</h1><p>A small book shop made of four services.</p>\
         <p><a href=/productpage?u=normal>Product page</a> · <a href=/api/v1/products>JSON</a></p>",
    )
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><header>Bookinfo</header><main>{body}</main></html>\n"
    )
}

fn render_details((status, details): &(StatusCode, Value)) -> String {
    if *status != StatusCode::OK {
        return format!(
            "<p class=bad>Error fetching product details</p><p>{}</p>",
            text(&details["error"])
        );
    }
    let rows = [
        ("Author", "author"),
        ("Year", "year"),
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ]
    .map(|(label, key)| format!("<dt>{label}</dt><dd>{}</dd>", text(&details[key])))
    .concat();
    format!("<dl>{rows}</dl>")
}

fn render_reviews((status, reviews): &(StatusCode, Value)) -> String {
    if *status != StatusCode::OK {
        return format!(
            "<p class=bad>Error fetching product reviews</p><p>{}</p>",
            text(&reviews["error"])
        );
    }
    let empty = Vec::new();
    reviews["reviews"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|review| {
            format!(
                "<blockquote>{}<div class=by>{}</div>{}</blockquote>",
                text(&review["text"]),
                text(&review["reviewer"]),
                render_rating(review.get("rating"))
            )
        })
        .collect()
}

fn render_rating(rating: Option<&Value>) -> String {
    let Some(rating) = rating else {
        return String::new();
    };
    let Some(stars) = rating["stars"].as_u64() else {
        return format!("<div class=bad>{}</div>", text(&rating["error"]));
    };
    let stars = usize::try_from(stars.min(5)).unwrap_or(5);
    let color = if rating["color"] == "red" {
        "red"
    } else {
        "black"
    };
    format!(
        "<div class=\"stars {color}\" title=\"{stars} of 5\">{}<span class=off>{}</span></div>",
        "★".repeat(stars),
        "★".repeat(5 - stars)
    )
}

/// The value as text that is safe inside HTML.
fn text(value: &Value) -> String {
    let plain = match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    plain
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_stars_in_the_color_of_the_version() {
        let reviews = json!({"podname": "reviews-v3", "reviews": [
            {"reviewer": "R", "text": "t", "rating": {"stars": 4, "color": "red"}}]});
        let page = render(
            &json!({"title": "T"}),
            &(StatusCode::OK, json!({"author": "A"})),
            &(StatusCode::OK, reviews),
        );
        assert!(page.contains("class=\"stars red\" title=\"4 of 5\">★★★★<span class=off>★</span>"));
        assert!(page.contains("Reviews served by <b>reviews-v3</b> (with stars)"));
    }

    #[test]
    fn says_what_could_not_be_fetched_and_escapes_it() {
        let page = render(
            &json!({"title": "T"}),
            &(StatusCode::OK, json!({})),
            &(StatusCode::SERVICE_UNAVAILABLE, json!({"error": "<down>"})),
        );
        assert!(page.contains("Error fetching product reviews"));
        assert!(page.contains("&lt;down&gt;"));
        assert!(!page.contains("<down>"));
    }
}
