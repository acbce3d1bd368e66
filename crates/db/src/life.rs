//! An organization's life in one service: the same RPCs in each, served by what all have in common. What a service keeps
//! outside of its database it gives up first: see [`Parting`].

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::OrgId;
use nitejar_proto::common::v1 as pb;
use nitejar_proto::common::v1::tenants_server::{Tenants, TenantsServer};
use tokio::sync::mpsc::Sender;
use tonic::{Request, Response, Status};

use crate::directory::{is_on_its_way, lock_state, on_its_way};
use crate::{Db, errors};

/// Gives up what is not in the database, before the rows that know of it are deleted.
pub trait Parting: Send + Sync {
    /// Unavailable until nothing is left. Asked again until it succeeds.
    fn part<'a>(&'a self, org: &'a OrgId) -> BoxFuture<'a, Result<()>>;
}

/// For a service that keeps nothing elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct NothingElse;

impl Parting for NothingElse {
    fn part<'a>(&'a self, _: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Serves the RPCs.
pub struct Life {
    db: Db,
    parting: Arc<dyn Parting>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Life")
    }
}

impl Life {
    /// As a part of a service's routes.
    pub fn server(db: Db, parting: Arc<dyn Parting>) -> TenantsServer<Self> {
        TenantsServer::new(Self { db, parting })
    }
}

/// Only tenancy decides about an organization's life.
fn tenancy_only<T>(request: &Request<T>) -> Result<()> {
    if ctx(request)?.actor.id == "tenancy" {
        Ok(())
    } else {
        Err(Error::new(Code::PermissionDenied, "This is for the tenancy service only."))
    }
}

/// Rows on their way.
type Exported = Pin<Box<dyn Stream<Item = Result<pb::ExportedRows, Status>> + Send>>;

/// What a task sends, as a stream that ends with it.
fn async_stream<F>(work: impl FnOnce(Sender<Result<pb::ExportedRows, Status>>) -> F) -> Exported
where
    F: Future<Output = ()> + Send + 'static,
{
    let (out, mut sent) = tokio::sync::mpsc::channel(1);
    tokio::spawn(work(out));
    Box::pin(stream::poll_fn(move |cx| sent.poll_recv(cx)))
}

#[tonic::async_trait]
impl Tenants for Life {
    async fn provision_tenant(
        &self,
        request: Request<pb::ProvisionTenantRequest>,
    ) -> Result<Response<pb::ProvisionTenantResponse>, Status> {
        tenancy_only(&request)?;
        let org = request.get_ref().org_id.parse().map_err(Error::from)?;
        self.db.provision(&org).await?;
        Ok(Response::new(pb::ProvisionTenantResponse {}))
    }

    async fn set_tenant_state(
        &self,
        request: Request<pb::SetTenantStateRequest>,
    ) -> Result<Response<pb::SetTenantStateResponse>, Status> {
        tenancy_only(&request)?;
        let r = request.into_inner();
        let org = r.org_id.parse().map_err(Error::from)?;
        self.db.set_state(&org, r.active, r.version).await?;
        Ok(Response::new(pb::SetTenantStateResponse {}))
    }

    type ExportTenantStream = Exported;

    async fn export_tenant(
        &self,
        request: Request<pb::ExportTenantRequest>,
    ) -> Result<Response<Exported>, Status> {
        tenancy_only(&request)?;
        let org = request.get_ref().org_id.parse().map_err(Error::from)?;
        let ctx = ctx(&request)?.for_tenant(org);
        let db = self.db.clone();
        let (to, mut from) = tokio::sync::mpsc::channel(2);
        let reading = tokio::spawn(async move { db.export(&ctx, &to).await });
        let rows = async_stream(move |out| async move {
            while let Some(r) = from.recv().await {
                let rows = pb::ExportedRows { table: r.table, lines: r.lines, rows: r.rows };
                if out.send(Ok(rows)).await.is_err() {
                    return;
                }
            }
            // A snapshot that broke off must not look whole.
            let end = reading.await.unwrap_or_else(|error| Err(Error::internal(error.to_string())));
            if let Err(error) = end {
                let _ = out.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(rows))
    }

    async fn purge_tenant(
        &self,
        request: Request<pb::PurgeTenantRequest>,
    ) -> Result<Response<pb::PurgeTenantResponse>, Status> {
        tenancy_only(&request)?;
        let org = request.get_ref().org_id.parse().map_err(Error::from)?;
        let tables = self.db.purge(&org, &*self.parting).await?.into_iter();
        let tables = tables.map(|t| pb::PurgedTable { name: t.name, rows: t.rows }).collect();
        Ok(Response::new(pb::PurgeTenantResponse { tables }))
    }
}

impl Db {
    /// Whether an organization's work goes on here. Ignored when something newer is known.
    pub async fn set_state(&self, org: &OrgId, active: bool, version: i64) -> Result<()> {
        let db = self.home_of(org).await?;
        let mut tx = db.0.control.begin().await.map_err(errors::from_sqlx)?;
        // Who moves it holds the row: what is read is what that came to.
        let state = lock_state(&mut tx, org).await?;
        if state.as_deref().is_some_and(is_on_its_way) {
            return Err(on_its_way());
        }
        sqlx::query(
            "UPDATE control.tenants SET state = CASE WHEN $2 THEN 'active' ELSE 'suspended' END, state_version = $3 \
             WHERE org_id = $1 AND state IN ('active', 'suspended') AND state_version < $3",
        )
        .bind(org.as_str())
        .bind(active)
        .bind(version)
        .execute(&mut *tx)
        .await
        .map_err(errors::from_sqlx)?;
        tx.commit().await.map_err(errors::from_sqlx)
    }
}
