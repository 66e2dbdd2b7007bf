//! TLS contexts of the tunnels.
//!
//! The waypoint's certificate and the root come from its own identity, under the names that istiod gives them: `default`
//! and `ROOTCA`. Anything else in a context would need a secret that is not there.

use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::strings::string_match;
use super::values::{flag, unpack};
use crate::program::PeerRule;

/// Name of the secret with the waypoint's certificate.
const CERTIFICATE: &str = "default";
/// Name of the secret with the root.
const ROOT: &str = "ROOTCA";

/// The context of tunnels from clients.
pub(super) fn downstream(
    notes: &mut Notes,
    at: At<'_>,
    socket: Option<core::TransportSocket>,
) -> Result<PeerRule, DecodeError> {
    let socket = socket.ok_or_else(|| at.error("is missing: HBONE needs TLS"))?;
    let at = at.field("typed_config");
    let context: pb::DownstreamTlsContext = unpack(at, typed_config(at, &socket)?)?;
    let pb::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption: _, // no session is resumed
        session_timeout: _,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch: _, // there is one certificate
        prefer_client_ciphers: _,           // of TLS 1.3 all are good
        session_ticket_keys_type,
    } = context;
    if flag(require_sni, false) {
        return Err(at.field("require_sni").unsupported());
    }
    unsupported!(at; ocsp_staple_policy, session_ticket_keys_type);
    if !flag(require_client_certificate, false) {
        return Err(at
            .field("require_client_certificate")
            .error("must be true: the peer's identity is its certificate"));
    }
    common(notes, at.field("common_tls_context"), common_tls_context)
}

/// The context of tunnels to endpoints.
pub(super) fn upstream(
    notes: &mut Notes,
    at: At<'_>,
    socket: &core::TransportSocket,
) -> Result<PeerRule, DecodeError> {
    let at = at.field("typed_config");
    let context: pb::UpstreamTlsContext = unpack(at, typed_config(at, socket)?)?;
    let pb::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation: _, // does not exist in TLS 1.3
        max_session_keys: _,    // no session is resumed
        enforce_rsa_key_usage: _,
    } = context;
    unsupported!(at; sni, auto_host_sni, auto_sni_san_validation);
    common(notes, at.field("common_tls_context"), common_tls_context)
}

pub(super) fn typed_config<'s>(
    at: At<'_>,
    socket: &'s core::TransportSocket,
) -> Result<&'s waymark_proto::envoy::google::protobuf::Any, DecodeError> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => Ok(any),
        None => Err(at.missing()),
    }
}

fn common(
    notes: &mut Notes,
    at: At<'_>,
    context: Option<pb::CommonTlsContext>,
) -> Result<PeerRule, DecodeError> {
    use pb::common_tls_context::ValidationContextType as V;
    let pb::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = context.ok_or_else(|| at.missing())?;
    unsupported!(
        at; tls_certificates, tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
    );
    params(
        notes,
        at.field("tls_params"),
        tls_params.unwrap_or_default(),
    )?;
    if alpn_protocols != ["h2"] {
        return Err(at
            .field("alpn_protocols")
            .error("must be [h2]: HBONE is HTTP/2"));
    }
    match tls_certificate_sds_secret_configs.as_slice() {
        [one] if one.name == CERTIFICATE => {}
        _ => {
            let why =
                format!("must name one secret, {CERTIFICATE:?}: the waypoint's own certificate");
            return Err(at.field("tls_certificate_sds_secret_configs").error(why));
        }
    }
    let root_only = |at: At<'_>, name: &str| match name {
        ROOT => Ok(()),
        other => Err(at
            .field("name")
            .error(format!("is {other:?}; the only root is {ROOT:?}"))),
    };
    match validation_context_type {
        Some(V::CombinedValidationContext(combined)) => {
            let at = at.field("combined_validation_context");
            let pb::common_tls_context::CombinedCertificateValidationContext {
                default_validation_context,
                validation_context_sds_secret_config,
                validation_context_certificate_provider,
                validation_context_certificate_provider_instance,
            } = combined;
            unsupported!(
                at; validation_context_certificate_provider, validation_context_certificate_provider_instance,
            );
            let sds = at.field("validation_context_sds_secret_config");
            root_only(
                sds,
                &validation_context_sds_secret_config
                    .ok_or_else(|| sds.missing())?
                    .name,
            )?;
            validation(
                at.field("default_validation_context"),
                default_validation_context.unwrap_or_default(),
            )
        }
        Some(V::ValidationContextSdsSecretConfig(secret)) => {
            root_only(
                at.field("validation_context_sds_secret_config"),
                &secret.name,
            )?;
            Ok(PeerRule::Anyone)
        }
        Some(V::ValidationContext(_)) => Err(at.field("validation_context").unsupported()),
        Some(V::ValidationContextCertificateProvider(_)) => Err(at
            .field("validation_context_certificate_provider")
            .unsupported()),
        Some(V::ValidationContextCertificateProviderInstance(_)) => Err(at
            .field("validation_context_certificate_provider_instance")
            .unsupported()),
        None => {
            Err(at.error("has no validation context: the peer's certificate would not be verified"))
        }
    }
}

fn params(notes: &mut Notes, at: At<'_>, params: pb::TlsParameters) -> Result<(), DecodeError> {
    use pb::tls_parameters::TlsProtocol as P;
    let pb::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = params;
    // Tunnels are TLS 1.3 whatever the lowest version allowed is; the highest has to allow it.
    let _ = tls_minimum_protocol_version;
    if ![P::TlsAuto as i32, P::TlSv13 as i32].contains(&tls_maximum_protocol_version) {
        return Err(at
            .field("tls_maximum_protocol_version")
            .error("must allow TLS 1.3"));
    }
    // Only for TLS 1.2.
    notes.add_if(
        &cipher_suites,
        at.field("cipher_suites"),
        "cipher suites are those of TLS 1.3",
    );
    unsupported!(at; ecdh_curves, signature_algorithms, compliance_policies);
    Ok(())
}

fn validation(
    at: At<'_>,
    context: pb::CertificateValidationContext,
) -> Result<PeerRule, DecodeError> {
    use pb::subject_alt_name_matcher::SanType;
    let pb::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list: _, // none is sent
    } = context;
    unsupported!(
        at; trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory,
        verify_certificate_spki, verify_certificate_hash, match_subject_alt_names,
        require_signed_certificate_timestamp, crl, allow_expired_certificate, trust_chain_verification,
        custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth,
    );
    let mut matchers = Vec::new();
    for (i, san) in match_typed_subject_alt_names.into_iter().enumerate() {
        let at = at.index("match_typed_subject_alt_names", i);
        let pb::SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = san;
        unsupported!(at; oid);
        if san_type != SanType::Uri as i32 {
            return Err(at
                .field("san_type")
                .error("must be URI: identities are SPIFFE"));
        }
        let matcher = matcher.ok_or_else(|| at.field("matcher").missing())?;
        matchers.push(string_match(at.field("matcher"), matcher)?);
    }
    Ok(if matchers.is_empty() {
        PeerRule::Anyone
    } else {
        PeerRule::UriSan(matchers)
    })
}
