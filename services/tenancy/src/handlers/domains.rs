//! Domains, and joining by them.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::DomainId;
use nitejar_common::time::to_proto;
use nitejar_db::TenantTx;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::domains_server::Domains;
use tonic::{Request, Response, Status};

use super::members;
use crate::Service;
use crate::domain::domain_name::{self, MOST};
use crate::domain::grants;
use crate::joining::not_joinable;
use crate::lapsing;
use crate::store::domains::{self, DomainRow};
use crate::store::org;

#[tonic::async_trait]
impl Domains for Service {
    async fn create_domain(
        &self,
        request: Request<pb::CreateDomainRequest>,
    ) -> Result<Response<pb::Domain>, Status> {
        let ctx = ctx(&request)?;
        let row = DomainRow {
            id: DomainId::new(&*self.clock).to_string(),
            name: domain_name::normalized(&request.get_ref().name)?,
            token: lapsing::new_token(),
            joining: "manual".into(),
            role: "viewer".into(),
            created_at: self.clock.now(),
            verified_at: None,
            missed_at: None,
        };
        let mut tx = self.db.tenant(&ctx).await?;
        org::lock(tx.conn()).await.map_err(Error::from)?;
        if domains::count(tx.conn()).await.map_err(Error::from)? >= MOST {
            let detail =
                format!("An organization has at most {MOST} domains. Remove one that is not needed.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        domains::insert(tx.conn(), &row).await.map_err(|e| {
            if is_unique_violation(&e, "domains_name_key") {
                Error::new(Code::AlreadyExists, "The organization has this domain already.")
                    .violation("/name", "must be new")
            } else {
                e.into()
            }
        })?;
        self.audit_domain(&mut tx, &ctx, "domain.added", &row, &[]).await?;
        tx.answer(to_pb(row)).await
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Result<Response<pb::ListDomainsResponse>, Status> {
        let mut tx = self.db.tenant_read(&ctx(&request)?).await?;
        let rows = domains::list(tx.conn()).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(pb::ListDomainsResponse { domains: rows.into_iter().map(to_pb).collect() }))
    }

    async fn get_domain(
        &self,
        request: Request<pb::GetDomainRequest>,
    ) -> Result<Response<pb::Domain>, Status> {
        let ctx = ctx(&request)?;
        Ok(Response::new(to_pb(self.domain(&ctx, &request.get_ref().domain_id).await?)))
    }

    async fn verify_domain(
        &self,
        request: Request<pb::VerifyDomainRequest>,
    ) -> Result<Response<pb::Domain>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().domain_id;
        let row = self.domain(&ctx, id).await?;
        let (name, value) = domain_name::challenge(&row.name, &row.token);
        let asked_at = self.clock.now();
        let texts = self.dns.texts(ctx.tenant()?, &name).await?;
        if !lapsing::says(&texts, &value) {
            let detail = format!(
                "There is no TXT record {name} with the text {value}. New records can take a while to be seen."
            );
            return Err(Error::new(Code::DomainRecordMissing, detail).into());
        }
        if row.verified_at.is_none() {
            self.free_if_gone(&row.name, &texts, asked_at).await?;
        }
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = lock(&mut tx, id).await?;
        if row.verified_at.is_none() {
            row.verified_at = Some(self.clock.now());
            if !domains::save(tx.conn(), &row).await.map_err(Error::from)? {
                return Err(taken().into());
            }
            self.audit_domain(&mut tx, &ctx, "domain.verified", &row, &[]).await?;
        } else if domains::note_record(tx.conn(), &row, None).await.map_err(Error::from)? {
            row.missed_at = None;
        }
        tx.answer(to_pb(row)).await
    }

    async fn update_domain(
        &self,
        request: Request<pb::UpdateDomainRequest>,
    ) -> Result<Response<pb::Domain>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = lock(&mut tx, &r.domain_id).await?;
        let joining = r.joining.unwrap_or_else(|| row.joining.clone());
        let role = r.role.unwrap_or_else(|| row.role.clone());
        // Whoever lets people in gives them a role.
        grants::may_give(&ctx, members::parse_role(&role)?)?;
        if (&joining, &role) != (&row.joining, &row.role) {
            (row.joining, row.role) = (joining, role);
            if !domains::save(tx.conn(), &row).await.map_err(Error::from)? {
                // Only after a restore from an archive: meanwhile it was free.
                return Err(taken().into());
            }
            let details = [("joining", row.joining.clone()), ("role", row.role.clone())];
            self.audit_domain(&mut tx, &ctx, "domain.updated", &row, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(to_pb(row)))
    }

    async fn delete_domain(
        &self,
        request: Request<pb::DeleteDomainRequest>,
    ) -> Result<Response<pb::DeleteDomainResponse>, Status> {
        let ctx = ctx(&request)?;
        let mut tx = self.db.tenant(&ctx).await?;
        let row = lock(&mut tx, &request.get_ref().domain_id).await?;
        domains::delete(tx.conn(), &row).await.map_err(Error::from)?;
        self.audit_domain(&mut tx, &ctx, "domain.removed", &row, &[]).await?;
        tx.commit().await?;
        Ok(Response::new(pb::DeleteDomainResponse {}))
    }

    async fn list_joinable_orgs(
        &self,
        request: Request<pb::ListJoinableOrgsRequest>,
    ) -> Result<Response<pb::ListJoinableOrgsResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = self.user(ctx.require_user()?).await?;
        let mut orgs = Vec::new();
        if let Some(holder) = self.holder_of(&user.email, &OFFERED).await? {
            let ctx = ctx.for_tenant(holder.org_id.parse().map_err(Error::from)?);
            let mut tx = self.db.tenant_read(&ctx).await?;
            let may = self.may_join(&mut tx, &holder, &user).await?;
            let name = org::get(tx.conn()).await.map_err(Error::from)?.name;
            tx.commit().await?;
            if may {
                let (org_id, slug, domain, role) = (holder.org_id, holder.slug, holder.name, holder.role);
                orgs.push(pb::JoinableOrg { org_id, slug, name, domain, role });
            }
        }
        Ok(Response::new(pb::ListJoinableOrgsResponse { orgs }))
    }

    async fn join_org(
        &self,
        request: Request<pb::JoinOrgRequest>,
    ) -> Result<Response<pb::JoinOrgResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = self.user(ctx.require_user()?).await?;
        let org_id = request.into_inner().org_id;
        let holder = self.holder_of(&user.email, &OFFERED).await?;
        let holder = holder.filter(|h| h.org_id == org_id).ok_or_else(|| not_joinable(&org_id))?;
        let ctx = ctx.for_tenant(org_id.parse().map_err(Error::from)?);
        let (tx, member) = self.join(&ctx, &holder, &user).await?;
        let member = members::to_pb(member, Vec::new());
        tx.answer(pb::JoinOrgResponse { org_id, member: Some(member) }).await
    }
}

/// Ways of joining that one may ask for: who left what is joined by itself may come back that way.
const OFFERED: [&str; 2] = ["suggested", "automatic"];

impl Service {
    async fn domain(&self, ctx: &RequestCtx, id: &str) -> Result<DomainRow> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let row = domains::get(tx.conn(), id).await?;
        tx.commit().await?;
        row.ok_or_else(|| Error::not_found(format!("domain {id}")))
    }

    pub(crate) async fn audit_domain(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        action: &str,
        row: &DomainRow,
        more: &[(&str, String)],
    ) -> Result<()> {
        let mut details = vec![("name", row.name.clone())];
        details.extend_from_slice(more);
        let target = ("domain", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, target, &details).await
    }
}

async fn lock(tx: &mut TenantTx, id: &str) -> Result<DomainRow> {
    let row = domains::lock(tx.conn(), id).await?;
    row.ok_or_else(|| Error::not_found(format!("domain {id}")))
}

/// By whom is nobody's business.
fn taken() -> Error {
    Error::new(Code::Conflict, "Another organization has verified this domain. Ask us if it is yours.")
}

fn to_pb(row: DomainRow) -> pb::Domain {
    let (name, value) = domain_name::challenge(&row.name, &row.token);
    let state = if row.verified_at.is_some() { "verified" } else { "pending" };
    pb::Domain {
        unicode_name: domain_name::unicode(&row.name),
        id: row.id,
        name: row.name,
        state: state.into(),
        challenge: Some(pb::Challenge { name, value }),
        joining: row.joining,
        role: row.role,
        created_at: Some(to_proto(row.created_at)),
        verified_at: row.verified_at.map(to_proto),
        record_missing_since: row.missed_at.map(to_proto),
    }
}
