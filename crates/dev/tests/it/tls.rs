//! Mutual TLS between services: the story is told over it, strangers are refused, and certificates change while it runs.

use std::path::Path;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::grpc::tls::{Files, Tls};
use nitejar_common::secret::Secret;
use nitejar_common::token::Signer;
use nitejar_dev::keys::SERVICES;
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, test_tweaks};
use nitejar_proto::tenancy::v1::ResolveCredentialRequest;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate that names a service.
fn issue(dir: &Path, ca: &Ca, name: &str) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn issue_all(dir: &Path, ca: &Ca) {
    SERVICES.iter().for_each(|name| issue(dir, ca, name));
}

/// Asks `service` at tenancy's place as the gateway would, showing the certificate `NAME.pem` of `dir`.
async fn ask(stack: &TestStack, service: &'static str, dir: Option<(&Path, &str)>) -> Result<(), String> {
    let key = Secret::new(stack.keys.tokens["gateway"].0.clone());
    let signer = Signer::new("gateway", &key, system()).unwrap();
    let tls = dir.map(|(dir, name)| {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        Tls::load(Files { ca: dir.join("ca.pem"), cert, key }).unwrap()
    });
    let uri = format!("http://{}", stack.places.main["tenancy"]);
    let upstream = Upstream::new(service, &uri, Duration::from_secs(300), signer, tls).unwrap();
    let me = RequestCtx::service("gateway", &SystemClock);
    let message = ResolveCredentialRequest { key_sha256: vec![0; 32], ..Default::default() };
    let request = upstream.request_within(&me, message, Duration::from_secs(5)).unwrap();
    let answer = TenancyInternalClient::new(upstream.channel()).resolve_credential(request).await;
    // Unknown, but heard.
    match answer {
        Err(status) if status.message().contains("key is not valid") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_speak_tls_with_each_other_and_with_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, next, strange) = (ca("ours"), ca("next"), ca("strange"));
    let at = |name: &str| {
        let sub = dir.path().join(name);
        std::fs::create_dir_all(&sub).unwrap();
        sub
    };
    let certificates = at("certificates");
    std::fs::write(certificates.join("ca.pem"), ours.pem()).unwrap();
    issue_all(&certificates, &ours);
    let tweaks = Tweaks { certificates: Some(certificates.clone()), ..test_tweaks() };
    let stack = TestStack::start_with(tweaks).await.unwrap();
    nitejar_dev::demo::story(&stack.target()).await.unwrap();

    assert_eq!(ask(&stack, "tenancy", Some((&certificates, "gateway"))).await, Ok(()));
    assert!(ask(&stack, "tenancy", None).await.is_err(), "plain text was answered");
    let other = at("strange");
    std::fs::write(other.join("ca.pem"), ours.pem()).unwrap();
    issue(&other, &strange, "gateway");
    assert!(
        ask(&stack, "tenancy", Some((&other, "gateway"))).await.is_err(),
        "a stranger's certificate was taken"
    );
    let wrong = ask(&stack, "billing", Some((&certificates, "gateway"))).await;
    assert!(wrong.is_err(), "tenancy was taken for billing");

    // The CA changes: first both are trusted, then all get certificates of the new one, then the old one goes.
    let both = format!("{}{}", ours.pem(), next.pem());
    std::fs::write(certificates.join("ca.pem"), &both).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let newer = at("newer");
    std::fs::write(newer.join("ca.pem"), &both).unwrap();
    issue_all(&newer, &next);
    assert_eq!(ask(&stack, "tenancy", Some((&newer, "gateway"))).await, Ok(()));
    issue_all(&certificates, &next);
    std::fs::write(certificates.join("ca.pem"), next.pem()).unwrap();
    let old = at("old");
    std::fs::write(old.join("ca.pem"), &both).unwrap();
    issue_all(&old, &ours);
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while ask(&stack, "tenancy", Some((&old, "gateway"))).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "the old CA is trusted for ever");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A file that is broken changes nothing.
    std::fs::write(certificates.join("tenancy.pem"), "no certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(ask(&stack, "tenancy", Some((&newer, "gateway"))).await, Ok(()));
    assert_eq!(stack.operator().unwrap().get("/v1/plans").await.unwrap()["plans"][0]["id"], "free");
    stack.stop().await.unwrap();
}
