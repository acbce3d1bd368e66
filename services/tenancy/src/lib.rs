//! The tenancy service. See `README.md`.

mod changes;
pub mod config;
mod creation;
pub mod domain;
mod handlers;
mod mail;
pub mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::grpc::server::AuthLayer;
use nitejar_common::token::{Signer, Verifier};
use nitejar_db::audit::AuditDelivery;
use nitejar_db::outbox::Relay;
use nitejar_db::{Db, Migration, Schema};
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::CredentialChange;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use config::SessionTimes;
use domain::envelope::MasterKey;
use mail::{MailDelivery, Smtp};

pub use config::Config;

/// What this service keeps.
pub const SCHEMA: Schema = Schema {
    service: "tenancy",
    control: &[
        Migration { version: 1, name: "people", sql: include_str!("../migrations/control/0001_people.sql") },
        Migration {
            version: 2,
            name: "credential changes",
            sql: include_str!("../migrations/control/0002_credential_changes.sql"),
        },
        Migration {
            version: 3,
            name: "asked with",
            sql: include_str!("../migrations/control/0003_asked_with.sql"),
        },
        Migration { version: 4, name: "rates", sql: include_str!("../migrations/control/0004_rates.sql") },
        Migration {
            version: 5,
            name: "sessions",
            sql: include_str!("../migrations/control/0005_sessions.sql"),
        },
        Migration {
            version: 6,
            name: "key makers",
            sql: include_str!("../migrations/control/0006_key_makers.sql"),
        },
    ],
    tenant: &[Migration {
        version: 1,
        name: "organization",
        sql: include_str!("../migrations/tenant/0001_organization.sql"),
    }],
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) clock: SharedClock,
    pub(crate) master: Arc<MasterKey>,
    /// SHA-256 of each operator's key → name.
    pub(crate) operators: Arc<BTreeMap<[u8; 32], String>>,
    /// Keep tenant data too: sprites, billing, audit.
    pub(crate) tenants_of: Arc<[Upstream; 3]>,
    /// What gateways must forget.
    pub(crate) changes: broadcast::Sender<CredentialChange>,
    /// Where links in mails lead.
    pub(crate) public_url: Arc<str>,
    /// How long sessions live.
    pub(crate) session: SessionTimes,
    /// Ends streams when the service drains.
    pub(crate) draining: CancellationToken,
}

/// Opens the database and the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let tls = config.tls.load()?;
    let verifier = Verifier::new("tenancy", &config.token.trusted_keys, clock.clone())?;
    let signer = Signer::new("tenancy", &config.token.signing_key, clock.clone())?;
    let audit = config.upstreams.open("audit", &signer, tls.as_ref())?;
    let sprites = config.upstreams.open("sprites", &signer, tls.as_ref())?;
    let billing = config.upstreams.open("billing", &signer, tls.as_ref())?;
    let db = Db::open(&config.database, SCHEMA, clock.clone()).await?;
    let master =
        MasterKey::parse(&config.master_key).ok_or_else(|| Error::internal("master_key is not one"))?;
    let mailer = Arc::new(Smtp::new(&config.mail)?);
    let mut operators = BTreeMap::new();
    for (name, hash) in &config.operators {
        let hash = hex::decode(hash).ok().and_then(|h| <[u8; 32]>::try_from(h).ok());
        operators.insert(hash.ok_or_else(|| Error::internal("operators: not a SHA-256"))?, name.clone());
    }
    let service = Service {
        db: db.clone(),
        clock,
        master: Arc::new(master),
        operators: Arc::new(operators),
        tenants_of: Arc::new([sprites, billing, audit.clone()]),
        changes: changes::source(),
        public_url: config.public_url.trim_end_matches('/').into(),
        session: config.session.times(),
        draining: CancellationToken::new(),
    };
    let teller = service.clone();
    let routes = Routes::new(pb::users_server::UsersServer::new(service.clone()))
        .add_service(pb::orgs_server::OrgsServer::new(service.clone()))
        .add_service(pb::sessions_server::SessionsServer::new(service.clone()))
        .add_service(pb::members_server::MembersServer::new(service.clone()))
        .add_service(pb::invitations_server::InvitationsServer::new(service.clone()))
        .add_service(pb::keys_server::KeysServer::new(service.clone()))
        .add_service(pb::secrets_server::SecretsServer::new(service.clone()))
        .add_service(pb::tenancy_internal_server::TenancyInternalServer::new(service.clone()));
    let relay = Arc::new(
        Relay::new(db.clone(), "tenancy")
            .topic(nitejar_db::audit::TOPIC, AuditDelivery::new(audit))
            .topic(mail::TOPIC, MailDelivery::new(mailer, Arc::clone(&service.master))),
    );
    let ready = db.clone();
    let probes = Probes::default().check("database", move || {
        let db = ready.clone();
        async move { db.ping().await }
    });
    let rates = service.clone();
    Ok(Bound::grpc(
        "tenancy",
        listeners,
        tls,
        probes,
        db.idempotent(routes),
        AuthLayer::new(verifier, "tenancy"),
    )?
    .draining(service.draining.clone())
    .background("credential changes", move |stop| {
        let service = teller.clone();
        async move { service.tell_changes(stop).await }
    })
    .background("forgetting", move |stop| {
        let service = rates.clone();
        async move { service.forget_old(stop).await }
    })
    .background("spares", move |stop| {
        let db = db.clone();
        async move { db.run(stop).await }
    })
    .background("outbox", move |stop| {
        let relay = Arc::clone(&relay);
        async move { relay.run(stop).await }
    })
    .background("creation", move |stop| {
        let service = service.clone();
        async move { service.finish_creations(stop).await }
    }))
}

impl Service {
    /// Writes an audit event of a control-level act: it belongs to no organization.
    pub(crate) async fn audit_platform(
        &self,
        conn: &mut sqlx::PgConnection,
        ctx: &RequestCtx,
        action: &str,
        target: (&str, &str),
        details: &[(&str, String)],
    ) -> Result<()> {
        let mut ctx = ctx.clone();
        ctx.tenant = None;
        nitejar_db::audit::push(conn, &ctx, &*self.clock, action, target, details).await
    }
}
