//! What operators do about an organization's life.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::OrgId;
use nitejar_common::time::to_proto;
use nitejar_db::ControlTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::org_lives_server::OrgLives;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::creation::NewOrg;
use crate::domain::life::State;
use crate::domain::settings::check_text;
use crate::handlers::orgs::receipt_to_pb;
use crate::store::orgs::{self, OrgsRow};
use crate::store::receipts;

#[tonic::async_trait]
impl OrgLives for Service {
    async fn get_org_life(
        &self,
        request: Request<pb::GetOrgLifeRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let id = &request.get_ref().org_id;
        let mut conn = self.db.control_once().await?;
        let row = orgs::get(&mut conn, id).await.map_err(Error::from)?;
        let row = row.ok_or_else(|| Error::not_found(format!("organization {id}")))?;
        let receipt = receipts::of_org(&mut conn, id).await.map_err(Error::from)?;
        Ok(Response::new(pb::OrgLife { purge_receipt: receipt.map(receipt_to_pb), ..to_pb(row)? }))
    }

    async fn create_org_for_user(
        &self,
        request: Request<pb::CreateOrgForUserRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let owner = self.user(&r.user_id).await?.id;
        let wish = NewOrg { owner, slug: r.slug, name: r.name, external_id: r.external_id };
        let row = self.create_org(&ctx, wish, None).await?;
        let mut tx = self.db.control().await?;
        orgs::activate(tx.conn(), &row.id).await.map_err(Error::from)?;
        tx.answer(&ctx, to_pb(OrgsRow { state: "active".into(), ..row })?).await
    }

    async fn suspend_org(
        &self,
        request: Request<pb::SuspendOrgRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let ctx = ctx(&request)?;
        let reason = check_text(request.into_inner().reason, "/reason")?;
        if reason == orgs::RESTORING {
            // It would end with the next restore.
            return Err(Error::invalid("/reason", "must be your own: restores use this one").into());
        }
        let details = [("reason", reason.clone())];
        let now = self.clock.now();
        let change = self.change_life(&ctx, "org.suspended", &details, |org| org.suspend(&reason, now));
        let (tx, row) = change.await?;
        let answer = tx.answer(&ctx, to_pb(row)?).await;
        self.lives_changed.notify_one();
        answer
    }

    async fn resume_org(
        &self,
        request: Request<pb::ResumeOrgRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let ctx = ctx(&request)?;
        let (tx, row) = self.change_life(&ctx, "org.resumed", &[], OrgsRow::resume).await?;
        let answer = tx.answer(&ctx, to_pb(row)?).await;
        self.lives_changed.notify_one();
        answer
    }

    async fn set_legal_hold(
        &self,
        request: Request<pb::SetLegalHoldRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let ctx = ctx(&request)?;
        let reason = check_text(request.into_inner().reason, "/reason")?;
        let (now, by) = (self.clock.now(), ctx.actor.id.clone());
        // The owners read their log: that there is a hold, not why.
        let change = self.change_life(&ctx, "org.hold_set", &[], |org| org.hold(&by, &reason, now));
        let (tx, row) = change.await?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row)?))
    }

    async fn release_legal_hold(
        &self,
        request: Request<pb::ReleaseLegalHoldRequest>,
    ) -> Result<Response<pb::OrgLife>, Status> {
        let ctx = ctx(&request)?;
        let (tx, row) = self.change_life(&ctx, "org.hold_released", &[], OrgsRow::release).await?;
        tx.commit().await?;
        self.lives_changed.notify_one();
        Ok(Response::new(to_pb(row)?))
    }
}

impl Service {
    /// Changes the life of the context's organization, with its audit event in the organization's own log, in a transaction
    /// that is still to be committed. What is so already is no event.
    pub(crate) async fn change_life(
        &self,
        ctx: &RequestCtx,
        action: &str,
        details: &[(&str, String)],
        change: impl FnOnce(&mut OrgsRow) -> Result<bool> + Send,
    ) -> Result<(ControlTx, OrgsRow)> {
        let org: &OrgId = ctx.tenant()?;
        let mut tx = self.db.control().await?;
        let row = orgs::lock(tx.conn(), org.as_str()).await?;
        let mut row = row.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        if change(&mut row)? {
            orgs::save_life(tx.conn(), &row).await?;
            nitejar_db::audit::push_of(&mut tx, ctx, &*self.clock, org, action, details).await?;
        }
        Ok((tx, row))
    }
}

pub(crate) fn suspension(row: &OrgsRow) -> Option<pb::Suspension> {
    let suspended_at = Some(to_proto(row.suspended_at?));
    Some(pb::Suspension { reason: row.suspended_because.clone(), suspended_at })
}

pub(crate) fn deletion(row: &OrgsRow) -> Option<pb::Deletion> {
    Some(pb::Deletion {
        requested_at: row.deletion_requested_at.map(to_proto),
        requested_by: row.deletion_requested_by.clone(),
        purge_after: Some(to_proto(row.purge_after?)),
        held: row.held_at.is_some(),
    })
}

fn to_pb(row: OrgsRow) -> Result<pb::OrgLife> {
    let purge_waits = match State::parse(&row.state)? {
        State::Deleting if row.held_at.is_some() => "A legal hold keeps it.",
        State::Purging => "A service still has something to deliver, or does not answer.",
        _ => "",
    };
    let slug = if row.state == State::Purged.as_str() { String::new() } else { row.slug.clone() };
    let set_by = row.held_by.clone();
    Ok(pb::OrgLife {
        suspension: suspension(&row),
        deletion: deletion(&row),
        legal_hold: row.held_at.map(|at| pb::LegalHold {
            reason: row.held_because.clone(),
            set_by,
            set_at: Some(to_proto(at)),
        }),
        org_id: row.id,
        slug,
        state: row.state,
        created_at: Some(to_proto(row.created_at)),
        purge_waits: purge_waits.into(),
        purge_receipt: None,
    })
}
