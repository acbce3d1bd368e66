//! The audit service. See `README.md`.

pub mod adoption;
pub mod config;
pub mod domain;
mod handlers;
mod store;

use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_common::grpc::server::AuthLayer;
use nitejar_common::id::OrgId;
use nitejar_common::token::Verifier;
use nitejar_db::life::{Life, NothingElse};
use nitejar_db::{Db, Migration, Schema};
use nitejar_proto::audit::v1::audit_events_server::AuditEventsServer;
use nitejar_proto::audit::v1::audit_internal_server::AuditInternalServer;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners};
use std::sync::Arc;
use tonic::service::Routes;

pub use config::Config;

/// What this service keeps.
pub const SCHEMA: Schema = Schema {
    service: "audit",
    control: &[],
    tenant: &[
        Migration { version: 1, name: "events", sql: include_str!("../migrations/tenant/0001_events.sql") },
        Migration {
            version: 2,
            name: "chain org",
            sql: include_str!("../migrations/tenant/0002_chain_org.sql"),
        },
    ],
    shared: &[],
    private: &[("chain_head", "org_id")],
};

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) db: Db,
}

/// The tenant that stands for the platform itself: its chain holds what belongs to no organization.
pub fn platform() -> OrgId {
    OrgId::derived("the platform's audit chain")
}

/// Opens the database and the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let tls = config.tls.load()?;
    let verifier = Verifier::new("audit", &config.token.trusted_keys, clock.clone())?;
    let db = Db::open(&config.database, SCHEMA, clock).await?;
    db.provision(&platform()).await?;
    let service = Service { db: db.clone() };
    let routes = Routes::new(AuditEventsServer::new(service.clone()))
        .add_service(AuditInternalServer::new(service).max_decoding_message_size(16 << 20))
        .add_service(Life::server(db.clone(), Arc::new(NothingElse)));
    let ready = db.clone();
    let probes = Probes::default().check("database", move || {
        let db = ready.clone();
        async move { db.ping().await }
    });
    let auth = AuthLayer::new(verifier, "audit");
    Ok(Bound::grpc("audit", listeners, tls, probes, db.idempotent(routes), auth)?.background(
        "spares",
        move |stop| {
            let db = db.clone();
            async move { db.run(stop).await }
        },
    ))
}

impl Service {
    /// The context of the platform's chain.
    pub(crate) fn platform_ctx(ctx: &RequestCtx) -> RequestCtx {
        ctx.clone().for_tenant(platform())
    }
}
