//! `proxy-config secret`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use crate::dump::{Dump, field, items, path, text};
use crate::error::CliError;
use crate::table::Table;

/// What is shown of a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    kind: &'static str,
    valid: bool,
    serial: String,
    not_after: String,
    not_before: String,
}

pub(crate) fn table(dump: &Dump, now: OffsetDateTime) -> Result<String, CliError> {
    let section = dump.section("Secrets")?;
    let mut rows = Vec::new();
    for (list, state) in [
        ("dynamic_warming_secrets", "WARMING"),
        ("dynamic_active_secrets", "ACTIVE"),
    ] {
        for entry in items(section, list) {
            rows.extend(secret_rows(entry, state, now));
        }
    }
    if rows.is_empty() {
        return Ok("No active or warming secrets found.\n".into());
    }
    let with_domains = rows.iter().all(|(_, domain)| !domain.is_empty());
    let mut table = Table::new(5);
    let header = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ];
    table.row(
        header
            .into_iter()
            .chain(with_domains.then_some("TRUST DOMAIN")),
    );
    for (cells, domain) in rows {
        table.row(cells.into_iter().chain(with_domains.then_some(domain)));
    }
    Ok(table.render())
}

/// The row of a secret, with its trust domain; a SPIFFE validator gives one for each of its trust domains.
fn secret_rows(entry: &Value, state: &str, now: OffsetDateTime) -> Vec<([String; 7], String)> {
    let secret = field(entry, "secret").unwrap_or(&Value::Null);
    let name = match text(entry, "name") {
        "" => text(secret, "name"),
        name => name,
    };
    let chain = path(secret, &["tls_certificate", "certificate_chain"]);
    let ca = path(secret, &["validation_context", "trusted_ca"]);
    let data = chain.or(ca).map(data_source).unwrap_or_default();
    let domains = path(
        secret,
        &[
            "validation_context",
            "custom_validator_config",
            "typed_config",
        ],
    )
    .map(|config| items(config, "trust_domains"))
    .unwrap_or_default();
    if !domains.is_empty() {
        return domains
            .iter()
            .map(|domain| {
                let bundle = field(domain, "trust_bundle")
                    .map(data_source)
                    .unwrap_or_default();
                (
                    cells(name, state, &shown(&bundle, now)),
                    text(domain, "name").to_owned(),
                )
            })
            .collect();
    }
    vec![(cells(name, state, &shown(&data, now)), String::new())]
}

fn cells(name: &str, state: &str, shown: &Shown) -> [String; 7] {
    [
        name.to_owned(),
        shown.kind.to_owned(),
        state.to_owned(),
        shown.valid.to_string(),
        shown.serial.clone(),
        shown.not_after.clone(),
        shown.not_before.clone(),
    ]
}

fn data_source(source: &Value) -> Vec<u8> {
    if let Some(bytes) = field(source, "inline_bytes").and_then(Value::as_str) {
        return BASE64_STANDARD.decode(bytes).unwrap_or_default();
    }
    text(source, "inline_string").as_bytes().to_vec()
}

/// What the first PEM block says; nothing when it can't be read.
fn shown(pem: &[u8], now: OffsetDateTime) -> Shown {
    let first = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let Some(certificate) = first.as_ref().and_then(|pem| pem.parse_x509().ok()) else {
        return Shown::default();
    };
    describe(&certificate, now)
}

fn describe(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Shown {
    let validity = certificate.validity();
    let (from, to) = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    let serial: String = certificate
        .raw_serial()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    Shown {
        kind: if certificate.is_ca() {
            "CA"
        } else {
            "Cert Chain"
        },
        valid: from <= now && now <= to,
        serial: format!("{:0>32}", serial.trim_start_matches("00")),
        not_after: to.format(&Rfc3339).unwrap_or_default(),
        not_before: from.format(&Rfc3339).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unreadable_secret_has_a_row_without_particulars() {
        let dump = Dump {
            value: json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
                "dynamic_warming_secrets": [{"name": "default", "secret": {"name": "default"}}]}]}),
        };
        let text = table(&dump, OffsetDateTime::UNIX_EPOCH).expect("table");
        assert_eq!(
            text.lines()
                .nth(1)
                .map(|l| l.split_whitespace().collect::<Vec<_>>()),
            Some(vec!["default", "WARMING", "false"])
        );
    }

    #[test]
    fn no_secrets_is_said() {
        let dump = Dump {
            value: json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump"}]}),
        };
        assert_eq!(
            table(&dump, OffsetDateTime::UNIX_EPOCH).expect("table"),
            "No active or warming secrets found.\n"
        );
    }
}
