//! `status` of every Istio kind. Controllers write more than is described, so the rest is kept.

use super::schema::{Schema, int_or_text, list, object, one_of_names, text};

pub(super) fn status() -> Schema {
    let time = || text().format("date-time");
    let condition = object([
        ("type", text()),
        ("status", text()),
        ("reason", text()),
        ("message", text()),
        ("observedGeneration", int_or_text()),
        ("lastTransitionTime", time()),
        ("lastProbeTime", time()),
    ]);
    let validation = object([
        ("type", object([("name", text()), ("code", text())])),
        (
            "level",
            one_of_names(["UNKNOWN", "ERROR", "WARNING", "INFO"]),
        ),
        ("documentationUrl", text()),
    ]);
    object([
        ("conditions", list(condition)),
        ("validationMessages", list(validation)),
        ("observedGeneration", int_or_text()),
    ])
    .open()
}
