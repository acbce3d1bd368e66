//! The sprites service. See `README.md`.

pub mod adoption;
pub mod config;
mod defaults;
mod delivery;
mod dispatch;
pub mod domain;
mod endings;
mod github;
mod halt;
mod handlers;
pub mod provider;
mod reaper;
mod reconcile;
pub mod store;
mod wake;
mod work;

use std::sync::Arc;

use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_common::grpc::client::Upstream;
use nitejar_common::grpc::server::AuthLayer;
use nitejar_common::token::{Signer, Verifier};
use nitejar_db::audit::AuditDelivery;
use nitejar_db::life::Life;
use nitejar_db::outbox::Relay;
use nitejar_db::{Db, Migration, Owner, Schema, SharedTable};
use nitejar_proto::sprites::v1 as pb;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use defaults::Defaults;
use github::Github;
use provider::{LocalProvider, NoProvider, SpriteProvider};
use wake::Wake;

pub use config::Config;
use config::ProviderKind;

/// What this service keeps.
pub const SCHEMA: Schema = Schema {
    service: "sprites",
    control: &[
        Migration {
            version: 1,
            name: "pointers",
            sql: include_str!("../migrations/control/0001_pointers.sql"),
        },
        Migration { version: 2, name: "github", sql: include_str!("../migrations/control/0002_github.sql") },
    ],
    tenant: &[Migration {
        version: 1,
        name: "work",
        sql: include_str!("../migrations/tenant/0001_work.sql"),
    }],
    shared: &[
        SharedTable { table: "job_pointers", owner: Owner::Number },
        SharedTable { table: "sprites", owner: Owner::Number },
        SharedTable { table: "agent_claims", owner: Owner::Number },
        SharedTable { table: "github_installations", owner: Owner::Number },
        SharedTable { table: "github_states", owner: Owner::Org },
    ],
    private: &[],
};

/// What handlers and loops share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) clock: SharedClock,
    pub(crate) config: Arc<Config>,
    pub(crate) billing: Upstream,
    pub(crate) tenancy: Upstream,
    pub(crate) provider: Arc<dyn SpriteProvider>,
    /// Of organizations' settings.
    pub(crate) defaults: Arc<Defaults>,
    /// None: GitHub is off.
    pub(crate) github: Option<Arc<Github>>,
    /// Runners that wait for work.
    pub(crate) wake: Arc<Wake>,
    /// Something was enqueued.
    pub(crate) enqueued: Arc<Notify>,
    /// Something became claimable, or a Sprite is to go.
    pub(crate) unsettled: Arc<Notify>,
    /// A webhook was kept.
    pub(crate) received: Arc<Notify>,
    /// The service is about to stop: long polls end.
    pub(crate) draining: CancellationToken,
}

/// Opens the database and the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let tls = config.tls.load()?;
    let verifier = Verifier::new("sprites", &config.token.trusted_keys, clock.clone())?;
    let signer = Signer::new("sprites", &config.token.signing_key, clock.clone())?;
    let audit = config.upstreams.open("audit", &signer, tls.as_ref())?;
    let billing = config.upstreams.open("billing", &signer, tls.as_ref())?;
    let tenancy = config.upstreams.open("tenancy", &signer, tls.as_ref())?;
    let db = Db::open(&config.database, SCHEMA, clock.clone()).await?;
    let p = &config.provider;
    let provider: Arc<dyn SpriteProvider> = match p.kind {
        ProviderKind::Local => Arc::new(LocalProvider::new(&p.root, &p.runner, &p.gateway)?),
        ProviderKind::None => Arc::new(NoProvider),
    };
    let github = Github::new(&config.github, clock.clone())?.map(Arc::new);
    let service = Service {
        db: db.clone(),
        clock,
        config: Arc::new(config),
        billing: billing.clone(),
        tenancy,
        provider,
        defaults: Arc::default(),
        github: github.clone(),
        wake: Arc::default(),
        enqueued: Arc::default(),
        unsettled: Arc::default(),
        received: Arc::default(),
        draining: CancellationToken::new(),
    };
    let mut relay =
        Relay::new(db.clone(), "sprites").topic(nitejar_db::audit::TOPIC, AuditDelivery::new(audit));
    for topic in delivery::TOPICS {
        relay = relay.topic(topic, delivery::BillingDelivery::new(billing.clone(), topic));
    }
    if let Some(github) = github {
        relay = relay.topic(github::reply::TOPIC, github::reply::Comments::new(github, db.clone()));
    }
    let relay = Arc::new(relay);
    let routes = Routes::new(pb::agents_server::AgentsServer::new(service.clone()))
        .add_service(pb::work_items_server::WorkItemsServer::new(service.clone()))
        .add_service(pb::jobs_server::JobsServer::new(service.clone()))
        .add_service(pb::integrations_server::IntegrationsServer::new(service.clone()))
        .add_service(
            pb::runner_server::RunnerServer::new(service.clone()).max_decoding_message_size(20 << 20),
        )
        .add_service(
            // GitHub caps a webhook at 25 MB.
            pb::sprites_internal_server::SpritesInternalServer::new(service.clone())
                .max_decoding_message_size(27 << 20),
        )
        .add_service(Life::server(db.clone(), Arc::new(service.clone())));
    let ready = db.clone();
    let probes = Probes::default().check("database", move || {
        let db = ready.clone();
        async move { db.ping().await }
    });
    let mut bound = Bound::grpc(
        "sprites",
        listeners,
        tls,
        probes,
        db.idempotent(routes),
        AuthLayer::new(verifier, "sprites"),
    )?
    .draining(service.draining.clone())
    .background("spares", move |stop| {
        let db = db.clone();
        async move { db.run(stop).await }
    })
    .background("outbox", move |stop| {
        let relay = Arc::clone(&relay);
        async move { relay.run(stop).await }
    });
    macro_rules! background {
        ($name:literal, $method:ident) => {
            let this = service.clone();
            bound = bound.background($name, move |stop| {
                let this = this.clone();
                async move { this.$method(stop).await }
            });
        };
    }
    background!("dispatch", run_dispatch);
    background!("reaper", run_reaper);
    background!("reconcile", run_reconcile);
    background!("webhooks", run_webhooks);
    background!("redelivery", run_redelivery);
    Ok(bound)
}
