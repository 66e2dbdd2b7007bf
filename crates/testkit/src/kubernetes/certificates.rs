//! The certificates and keys of a Kubernetes that lives as long as a test.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};

/// The name of the one node there may be.
pub(super) const NODE: &str = "node";

/// Where they are.
#[derive(Debug)]
pub(super) struct Certificates {
    /// What signed the others.
    pub(super) ca: PathBuf,
    /// The API server's.
    pub(super) serving: (PathBuf, PathBuf),
    /// That of `system:masters`.
    pub(super) admin: (PathBuf, PathBuf),
    /// That of `system:kube-controller-manager`.
    pub(super) controller_manager: (PathBuf, PathBuf),
    /// That of `system:kube-scheduler`.
    pub(super) scheduler: (PathBuf, PathBuf),
    /// That of `system:kube-proxy`.
    pub(super) proxy: (PathBuf, PathBuf),
    /// That of the one node there may be.
    pub(super) kubelet: (PathBuf, PathBuf),
    /// What tokens of service accounts are signed with, and checked with.
    pub(super) service_account: (PathBuf, PathBuf),
}

impl Certificates {
    /// Makes them all in a directory; the API server's is for these addresses, too.
    pub(super) fn make(directory: &Path, addresses: &[IpAddr]) -> Self {
        let ca_key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = name("kubernetes-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&ca_key).expect("CA certificate");
        let ca = directory.join("ca.crt");
        fs::write(&ca, certificate.pem()).expect("write a certificate");
        let issuer = Issuer::new(params, ca_key);

        let mut serving = CertificateParams::new(
            SERVING_NAMES
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
        .expect("names");
        let addresses = [IpAddr::from([127, 0, 0, 1])]
            .into_iter()
            .chain(addresses.iter().copied());
        serving
            .subject_alt_names
            .extend(addresses.map(SanType::IpAddress));
        serving.distinguished_name = name("kube-apiserver", None);
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

        let key = KeyPair::generate().expect("key");
        let service_account = (
            directory.join("service-account.key"),
            directory.join("service-account.pub"),
        );
        fs::write(&service_account.0, key.serialize_pem()).expect("write a key");
        fs::write(&service_account.1, key.public_key_pem()).expect("write a key");
        Self {
            serving: signed(directory, "kube-apiserver", serving, &issuer),
            admin: client(directory, "admin", Some("system:masters"), &issuer),
            controller_manager: client(directory, "system:kube-controller-manager", None, &issuer),
            scheduler: client(directory, "system:kube-scheduler", None, &issuer),
            proxy: client(directory, "system:kube-proxy", None, &issuer),
            kubelet: client(
                directory,
                &format!("system:node:{NODE}"),
                Some("system:nodes"),
                &issuer,
            ),
            service_account,
            ca,
        }
    }
}

fn client(
    directory: &Path,
    user: &str,
    group: Option<&str>,
    issuer: &Issuer<'_, KeyPair>,
) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(user, group);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(directory, &user.replace(':', "-"), params, issuer)
}

fn signed(
    directory: &Path,
    file: &str,
    params: CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("key");
    let certificate = params.signed_by(&key, issuer).expect("certificate");
    let paths = (
        directory.join(format!("{file}.crt")),
        directory.join(format!("{file}.key")),
    );
    fs::write(&paths.0, certificate.pem()).expect("write a certificate");
    fs::write(&paths.1, key.serialize_pem()).expect("write a key");
    paths
}

/// A user is a common name, its group an organization.
fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

/// The names by which pods dial the API server.
const SERVING_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
