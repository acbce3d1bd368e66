//! The billing service. See `README.md`.

pub mod adoption;
mod api_calls;
pub mod catalogue;
pub mod config;
pub mod domain;
mod expiry;
mod handlers;
mod notify;
mod quota;
pub mod store;

use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_common::grpc::server::AuthLayer;
use nitejar_common::token::{Signer, Verifier};
use nitejar_db::audit::AuditDelivery;
use nitejar_db::life::{Life, NothingElse};
use nitejar_db::outbox::Relay;
use nitejar_db::{Db, Migration, Owner, Schema, SharedTable};
use nitejar_proto::billing::v1::billing_internal_server::BillingInternalServer;
use nitejar_proto::billing::v1::plans_server::PlansServer;
use nitejar_proto::billing::v1::subscriptions_server::SubscriptionsServer;
use nitejar_proto::billing::v1::usage_server::UsageServer;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners};
use std::sync::Arc;
use tonic::service::Routes;

pub use config::Config;
pub use quota::{Decisions, Quota};

/// What this service keeps.
pub const SCHEMA: Schema = Schema {
    service: "billing",
    control: &[
        Migration { version: 1, name: "plans", sql: include_str!("../migrations/control/0001_plans.sql") },
        Migration { version: 2, name: "seats", sql: include_str!("../migrations/control/0002_seats.sql") },
    ],
    tenant: &[Migration {
        version: 1,
        name: "usage",
        sql: include_str!("../migrations/tenant/0001_usage.sql"),
    }],
    shared: &[SharedTable { table: "expiry_due", owner: Owner::Number }],
    private: &[],
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) quota: Quota,
}

/// Opens the database and the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let tls = config.tls.load()?;
    let verifier = Verifier::new("billing", &config.token.trusted_keys, clock.clone())?;
    let signer = Signer::new("billing", &config.token.signing_key, clock.clone())?;
    let audit = config.upstreams.open("audit", &signer, tls.as_ref())?;
    let sprites = config.upstreams.open("sprites", &signer, tls.as_ref())?;
    let db = Db::open(&config.database, SCHEMA, clock).await?;
    let quota = Quota::open(db.clone()).await?;
    let relay = Arc::new(
        Relay::new(db.clone(), "billing")
            .topic(nitejar_db::audit::TOPIC, AuditDelivery::new(audit))
            .topic(notify::TOPIC, notify::QuotaChanged::new(sprites)),
    );
    let service = Service { quota: quota.clone() };
    let routes = Routes::new(PlansServer::new(service.clone()))
        .add_service(SubscriptionsServer::new(service.clone()))
        .add_service(UsageServer::new(service.clone()))
        .add_service(BillingInternalServer::new(service))
        .add_service(Life::server(db.clone(), Arc::new(NothingElse)));
    let ready = db.clone();
    let probes = Probes::default().check("database", move || {
        let db = ready.clone();
        async move { db.ping().await }
    });
    Ok(Bound::grpc(
        "billing",
        listeners,
        tls,
        probes,
        db.idempotent(routes),
        AuthLayer::new(verifier, "billing"),
    )?
    .background("spares", move |stop| {
        let db = db.clone();
        async move { db.run(stop).await }
    })
    .background("outbox", move |stop| {
        let relay = Arc::clone(&relay);
        async move { relay.run(stop).await }
    })
    .background("expiry", move |stop| {
        let quota = quota.clone();
        async move { expiry::run(&quota, stop).await }
    }))
}
