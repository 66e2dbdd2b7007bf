//! `/certs`, and the secrets of `/config_dump`.

use std::time::SystemTime;

use serde_json::{Value, json};
use waymark_identity::credentials::SubjectAltName;
use waymark_identity::{CertInfo, CertState};

use super::json::{base64, object, timestamp};
use super::{Admin, Answer};

impl Admin {
    pub(super) fn certs(&self) -> Answer {
        let now = self.clock.wall();
        let credentials = self.identity.as_ref().and_then(|i| i.current());
        let certificates: Vec<_> = credentials
            .iter()
            .map(|c| {
                let roots: Vec<_> = c.roots().infos().iter().map(|i| details(i, now)).collect();
                let chain: Vec<_> = c.chain_infos().iter().map(|i| details(i, now)).collect();
                object([
                    ("ca_cert", Value::from(roots)),
                    ("cert_chain", Value::from(chain)),
                ])
            })
            .collect();
        Answer::json(&json!({ "certificates": certificates }))
    }

    /// The secrets `default` and `ROOTCA`: those that serve, and those that are waited for.
    pub(super) fn secrets(&self) -> (Vec<Value>, Vec<Value>) {
        let Some(identity) = &self.identity else {
            return (Vec::new(), Vec::new());
        };
        let credentials = match identity.state() {
            CertState::Available { credentials, .. } => credentials,
            CertState::Initializing | CertState::Unavailable { .. } => {
                let waiting = |name: &str| {
                    json!({
                        "name": name,
                        "version_info": "uninitialized",
                        "secret": {
                            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                            "name": name,
                        },
                    })
                };
                return (Vec::new(), vec![waiting("default"), waiting("ROOTCA")]);
            }
        };
        let info = credentials.info();
        let at = timestamp(info.not_before);
        let chain: String = credentials
            .chain_infos()
            .iter()
            .map(|i| i.pem.as_str())
            .collect();
        let roots: String = credentials
            .roots()
            .infos()
            .iter()
            .map(|i| i.pem.as_str())
            .collect();
        let secret = |name: &str, kind: &str, contents: Value| {
            json!({
                "name": name,
                "version_info": info.serial,
                "last_updated": at,
                "secret": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                    "name": name,
                    kind: contents,
                },
            })
        };
        let certificate = json!({
            "certificate_chain": { "inline_bytes": base64(chain.as_bytes()) },
            "private_key": { "inline_bytes": base64(b"[redacted]") },
        });
        let root = json!({ "trusted_ca": { "inline_bytes": base64(roots.as_bytes()) } });
        let active = vec![
            secret("default", "tls_certificate", certificate),
            secret("ROOTCA", "validation_context", root),
        ];
        (active, Vec::new())
    }
}

fn details(info: &CertInfo, now: SystemTime) -> Value {
    let names: Vec<_> = info
        .subject_alt_names
        .iter()
        .map(|name| match name {
            SubjectAltName::Uri(uri) => json!({ "uri": uri }),
            SubjectAltName::Dns(dns) => json!({ "dns": dns }),
            SubjectAltName::Ip(ip) => json!({ "ip_address": ip.to_string() }),
        })
        .collect();
    let days = info.remaining(now).as_secs() / (24 * 3600);
    object([
        ("path", Value::from("<inline>")),
        ("serial_number", Value::from(info.serial.as_str())),
        ("subject_alt_names", Value::from(names)),
        ("days_until_expiration", Value::from(days.to_string())),
        ("valid_from", timestamp(info.not_before)),
        ("expiration_time", timestamp(info.not_after)),
    ])
}
