//! `/stats` and `/stats/prometheus`.

use http::StatusCode;
use regex::Regex;
use serde_json::{Value, json};

use super::query::Query;
use super::{Admin, Answer, PROMETHEUS};
use crate::telemetry::{HistogramValue, Sample, SampleValue, prometheus};

/// The quantiles that Envoy computes, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

impl Admin {
    pub(super) fn stats(&self, query: &Query) -> Answer {
        let samples = match self.selected(query) {
            Ok(samples) => samples,
            Err(answer) => return answer,
        };
        match query.get("format") {
            None | Some("text" | "") => Answer::text(text(&samples)),
            Some("json") => Answer::json(&as_json(&samples)),
            Some("prometheus") => Answer {
                content_type: PROMETHEUS,
                ..Answer::text(prometheus(&samples))
            },
            Some(_) => {
                let why = "usage: /stats?format=(text|json|prometheus)\n";
                Answer::refused(StatusCode::BAD_REQUEST, why)
            }
        }
    }

    pub(super) fn stats_prometheus(&self, query: &Query) -> Answer {
        match self.selected(query) {
            Ok(samples) => Answer {
                content_type: PROMETHEUS,
                ..Answer::text(prometheus(&samples))
            },
            Err(answer) => answer,
        }
    }

    /// Sets the figures that are read off something else.
    fn refresh(&self) {
        let server = &self.telemetry.server;
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        server.concurrency.set(whole(self.places.workers as u64));
        let certificate = self.identity.as_ref().and_then(|i| i.current());
        if let Some(certificate) = certificate {
            let left = certificate.info().remaining(self.clock.wall());
            server
                .days_until_first_cert_expiring
                .set(whole(left.as_secs() / (24 * 3600)));
        }
    }

    /// The figures that a query asks for.
    fn selected(&self, query: &Query) -> Result<Vec<Sample>, Answer> {
        let refused = |why: String| Answer::refused(StatusCode::BAD_REQUEST, why);
        let filter = match query.get("filter") {
            None => None,
            Some(filter) => match Regex::new(filter) {
                Ok(filter) => Some(filter),
                Err(error) => return Err(refused(format!("Invalid re2 regex: {error}\n"))),
            },
        };
        let kind: fn(&SampleValue) -> bool = match query.get("type") {
            None | Some("All") => |_| true,
            Some("Counters") => |v| matches!(v, SampleValue::Counter(_)),
            Some("Gauges") => |v| matches!(v, SampleValue::Gauge(_)),
            Some("Histograms") => |v| matches!(v, SampleValue::Histogram(_)),
            Some("TextReadouts") => |_| false,
            Some(_) => return Err(refused("invalid &type= param\n".to_owned())),
        };
        self.refresh();
        let used = query.has("usedonly");
        let mut samples = self
            .telemetry
            .samples(&self.snapshot.load(), self.clock.wall());
        samples.retain(|s| {
            kind(&s.value)
                && (!used || s.is_used())
                && filter.as_ref().is_none_or(|f| f.is_match(&s.name))
        });
        Ok(samples)
    }
}

fn text(samples: &[Sample]) -> String {
    samples
        .iter()
        .map(|s| match &s.value {
            SampleValue::Counter(n) => format!("{}: {n}\n", s.name),
            SampleValue::Gauge(n) => format!("{}: {n}\n", s.name),
            SampleValue::Histogram(h) => format!("{}: {}\n", s.name, quantiles(h)),
        })
        .collect()
}

/// `P0(nan,0) P25(nan,5) ...`: intervals are not kept.
fn quantiles(h: &HistogramValue) -> String {
    if h.count == 0 {
        return "No recorded values".to_owned();
    }
    let each = QUANTILES
        .iter()
        .map(|q| format!("P{q}(nan,{})", h.quantile(q / 100.0)));
    each.collect::<Vec<_>>().join(" ")
}

fn as_json(samples: &[Sample]) -> Value {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for s in samples {
        match &s.value {
            SampleValue::Counter(n) => stats.push(json!({ "name": s.name, "value": n })),
            SampleValue::Gauge(n) => stats.push(json!({ "name": s.name, "value": n })),
            SampleValue::Histogram(h) if h.count > 0 => {
                let values = QUANTILES
                    .iter()
                    .map(|q| json!({ "interval": null, "cumulative": h.quantile(q / 100.0) }));
                histograms.push(json!({ "name": s.name, "values": values.collect::<Vec<_>>() }));
            }
            SampleValue::Histogram(_) => {}
        }
    }
    if !histograms.is_empty() {
        stats.push(json!({
            "histograms": { "supported_quantiles": QUANTILES, "computed_quantiles": histograms },
        }));
    }
    json!({ "stats": stats })
}
