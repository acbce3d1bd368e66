//! The tenancy service. See `README.md`.

mod account;
pub mod adoption;
mod changes;
pub mod config;
mod creation;
mod dns;
pub mod domain;
mod entitlements;
mod exporting;
mod handlers;
mod inviting;
mod joining;
mod lapsing;
mod leaks;
mod lives;
mod mail;
mod notices;
mod rewrap;
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
use nitejar_db::{Db, Migration, Owner, Schema, SharedTable};
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::CredentialChange;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use config::{DeletionTimes, SessionTimes};
use dns::Dns;
use domain::envelope::{MasterKey, MasterKeys};
use domain::receipt::{ReceiptKey, public_key};
use leaks::GithubKeys;
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
        Migration { version: 7, name: "lives", sql: include_str!("../migrations/control/0007_lives.sql") },
        Migration { version: 8, name: "roles", sql: include_str!("../migrations/control/0008_roles.sql") },
        Migration {
            version: 9,
            name: "deleted people",
            sql: include_str!("../migrations/control/0009_deleted_people.sql"),
        },
        Migration {
            version: 10,
            name: "key limits",
            sql: include_str!("../migrations/control/0010_key_limits.sql"),
        },
        Migration {
            version: 11,
            name: "master keys",
            sql: include_str!("../migrations/control/0011_master_keys.sql"),
        },
        Migration {
            version: 12,
            name: "exports",
            sql: include_str!("../migrations/control/0012_exports.sql"),
        },
        Migration {
            version: 13,
            name: "domains",
            sql: include_str!("../migrations/control/0013_domains.sql"),
        },
        Migration {
            version: 14,
            name: "support",
            sql: include_str!("../migrations/control/0014_support.sql"),
        },
        Migration {
            version: 15,
            name: "lives end",
            sql: include_str!("../migrations/control/0015_lives_end.sql"),
        },
        Migration {
            version: 16,
            name: "external ids",
            sql: include_str!("../migrations/control/0016_external_ids.sql"),
        },
        Migration {
            version: 17,
            name: "support grants end",
            sql: include_str!("../migrations/control/0017_support_grants_end.sql"),
        },
        Migration {
            version: 18,
            name: "restores",
            sql: include_str!("../migrations/control/0018_restores.sql"),
        },
    ],
    tenant: &[
        Migration {
            version: 1,
            name: "organization",
            sql: include_str!("../migrations/tenant/0001_organization.sql"),
        },
        Migration {
            version: 2,
            name: "metadata",
            sql: include_str!("../migrations/tenant/0002_metadata.sql"),
        },
        Migration { version: 3, name: "roles", sql: include_str!("../migrations/tenant/0003_roles.sql") },
        Migration { version: 4, name: "people", sql: include_str!("../migrations/tenant/0004_people.sql") },
        Migration {
            version: 5,
            name: "key limits",
            sql: include_str!("../migrations/tenant/0005_key_limits.sql"),
        },
        Migration {
            version: 6,
            name: "secret versions",
            sql: include_str!("../migrations/tenant/0006_secret_versions.sql"),
        },
        Migration { version: 7, name: "exports", sql: include_str!("../migrations/tenant/0007_exports.sql") },
        Migration { version: 8, name: "domains", sql: include_str!("../migrations/tenant/0008_domains.sql") },
        Migration { version: 9, name: "support", sql: include_str!("../migrations/tenant/0009_support.sql") },
        Migration {
            version: 10,
            name: "invited by",
            sql: include_str!("../migrations/tenant/0010_invited_by.sql"),
        },
        Migration {
            version: 11,
            name: "records and mails",
            sql: include_str!("../migrations/tenant/0011_records_and_mails.sql"),
        },
    ],
    shared: &[
        SharedTable { table: "memberships", owner: Owner::Org },
        SharedTable { table: "credentials", owner: Owner::Org },
        SharedTable { table: "invitation_tokens", owner: Owner::Org },
        SharedTable { table: "data_keys", owner: Owner::Org },
        SharedTable { table: "export_pointers", owner: Owner::Org },
        SharedTable { table: "domains", owner: Owner::Org },
        SharedTable { table: "support_grants", owner: Owner::Org },
    ],
    private: &[
        ("data_keys", "wrapped"),
        ("secrets", "ciphertext"),
        ("secret_versions", "ciphertext"),
        ("invitations", "token_sha256"),
    ],
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) clock: SharedClock,
    pub(crate) master: Arc<MasterKeys>,
    /// SHA-256 of each operator's key → name.
    pub(crate) operators: Arc<BTreeMap<[u8; 32], String>>,
    /// A place to try things out, where operators make keys for people.
    pub(crate) sandbox: bool,
    /// Keep tenant data too: sprites, billing, and last audit, which hears of the others' end.
    pub(crate) tenants_of: Arc<[Upstream; 3]>,
    /// What gateways must forget.
    pub(crate) changes: broadcast::Sender<CredentialChange>,
    /// Where links in mails lead.
    pub(crate) public_url: Arc<str>,
    /// How long sessions live.
    pub(crate) session: SessionTimes,
    /// How organizations are deleted.
    pub(crate) deletion: DeletionTimes,
    /// So many organizations one person owns at most.
    pub(crate) orgs_per_person: i64,
    /// Signs receipts.
    pub(crate) receipt_key: Arc<ReceiptKey>,
    /// Its public half first, then former ones: (id, base64).
    pub(crate) receipt_keys: Arc<[(String, String)]>,
    /// Where GitHub publishes the keys that it signs reports with; empty: nowhere.
    pub(crate) secret_scanning_url: Arc<str>,
    /// Those keys.
    pub(crate) github_keys: Arc<GithubKeys>,
    /// To ask for them.
    pub(crate) http: reqwest::Client,
    /// Looks for the challenges of domains.
    pub(crate) dns: Arc<Dns>,
    /// An export was asked for.
    pub(crate) export_asked: Arc<Notify>,
    /// An organization's life took a turn.
    pub(crate) lives_changed: Arc<Notify>,
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
    let earlier = config.former_master_keys.iter().filter_map(MasterKey::parse).collect();
    let master = MasterKeys::new(master, earlier);
    let receipt_key =
        ReceiptKey::parse(&config.receipt_key).ok_or_else(|| Error::internal("receipt_key is not one"))?;
    let former = config.former_receipt_keys.iter().filter_map(|key| public_key(key));
    let receipt_keys = std::iter::once((receipt_key.id(), receipt_key.public())).chain(former);
    let mailer = Arc::new(Smtp::new(&config.mail)?);
    let service = Service {
        db: db.clone(),
        clock,
        master: Arc::new(master),
        operators: Arc::new(
            config.operator_keys().ok_or_else(|| Error::internal("operators: not a SHA-256"))?,
        ),
        sandbox: config.sandbox,
        tenants_of: Arc::new([sprites, billing, audit.clone()]),
        changes: changes::source(),
        public_url: config.public_url.trim_end_matches('/').into(),
        session: config.session.times(),
        deletion: config.deletion.times(),
        orgs_per_person: config.orgs_per_person.into(),
        receipt_key: Arc::new(receipt_key),
        receipt_keys: receipt_keys.collect(),
        secret_scanning_url: config.secret_scanning_url.trim_end_matches('/').into(),
        github_keys: Arc::default(),
        http: nitejar_runtime::http::client(std::time::Duration::from_secs(5))?,
        dns: Arc::new(Dns::new(config.dns.resolver)),
        export_asked: Arc::default(),
        lives_changed: Arc::default(),
        draining: CancellationToken::new(),
    };
    let teller = service.clone();
    let routes = Routes::new(pb::users_server::UsersServer::new(service.clone()))
        .add_service(pb::orgs_server::OrgsServer::new(service.clone()))
        .add_service(pb::org_lives_server::OrgLivesServer::new(service.clone()))
        .add_service(pb::sessions_server::SessionsServer::new(service.clone()))
        .add_service(pb::exports_server::ExportsServer::new(service.clone()))
        .add_service(pb::ownership_server::OwnershipServer::new(service.clone()))
        .add_service(pb::roles_server::RolesServer::new(service.clone()))
        .add_service(pb::members_server::MembersServer::new(service.clone()))
        .add_service(pb::invitations_server::InvitationsServer::new(service.clone()))
        .add_service(pb::domains_server::DomainsServer::new(service.clone()))
        .add_service(pb::support_server::SupportServer::new(service.clone()))
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
    let lives = service.clone();
    let notices = service.clone();
    let rewrap = service.clone();
    let exports = service.clone();
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
    .background("ending keys", move |stop| {
        let service = notices.clone();
        async move { service.tell_of_ending_keys(stop).await }
    })
    .background("master key", move |stop| {
        let service = rewrap.clone();
        async move { service.rewrap_data_keys(stop).await }
    })
    .background("exports", move |stop| {
        let service = exports.clone();
        async move { service.make_exports(stop).await }
    })
    .background("lives", move |stop| {
        let service = lives.clone();
        async move { service.follow_lives(stop).await }
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
