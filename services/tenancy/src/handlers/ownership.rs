//! Handing an organization over.

use chrono::Duration;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::ownership_server::Ownership;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::access::Besides;
use crate::mail::{self, Mail};
use crate::store::ownership::{self, OfferRow};
use crate::store::{members, org};

const LIFETIME: Duration = Duration::days(7);

#[tonic::async_trait]
impl Ownership for Service {
    async fn offer_ownership(
        &self,
        request: Request<pb::OfferOwnershipRequest>,
    ) -> Result<Response<pb::OwnershipOffer>, Status> {
        let ctx = ctx(&request)?;
        let from = ctx.require_user()?.to_owned();
        if !Besides::Owner.holds(ctx.role, false) {
            return Err(not_an_owner().into());
        }
        let to = request.into_inner().user_id;
        let now = self.clock.now();
        let mut tx = self.db.tenant(&ctx).await?;
        // In the order in which everybody locks: the owners first. Who was one a moment ago offers nothing any more, for that
        // would be good once they are made one again.
        if !members::lock_owners(tx.conn()).await.map_err(Error::from)?.contains(&from) {
            return Err(not_an_owner().into());
        }
        let member = members::hold(tx.conn(), &to).await.map_err(Error::from)?;
        let member = member.ok_or_else(|| Error::not_found(format!("member {to}")))?;
        if member.role == Role::Owner.as_str() {
            return Err(Error::new(Code::Conflict, "This member is an owner already.").into());
        }
        let offer = OfferRow { from_user: from, to_user: to, offered_at: now, expires_at: now + LIFETIME };
        ownership::put(tx.conn(), &offer).await.map_err(Error::from)?;
        let name = org::get(tx.conn()).await.map_err(Error::from)?.name;
        let mail = Mail::ownership_offered(&member.email, &ctx.actor.name, &name, offer.expires_at);
        mail::push(tx.conn(), &ctx, self, &mail).await?;
        let target = ("member", offer.to_user.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "ownership.offered", target, &[]).await?;
        tx.answer(to_pb(offer)).await
    }

    async fn get_ownership_offer(
        &self,
        request: Request<pb::GetOwnershipOfferRequest>,
    ) -> Result<Response<pb::OwnershipOffer>, Status> {
        let ctx = ctx(&request)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let offer = ownership::get(tx.conn(), self.clock.now()).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(to_pb(offer.ok_or_else(no_offer)?)))
    }

    async fn accept_ownership(
        &self,
        request: Request<pb::AcceptOwnershipRequest>,
    ) -> Result<Response<pb::AcceptOwnershipResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = ctx.require_user()?;
        let mut tx = self.db.tenant(&ctx).await?;
        // In the order in which everybody locks: the owners first.
        let owners = members::lock_owners(tx.conn()).await.map_err(Error::from)?;
        let offer = ownership::lock(tx.conn(), self.clock.now()).await.map_err(Error::from)?;
        let theirs = |offer: &OfferRow| Besides::Offered.holds(ctx.role, offer.to_user == user);
        let offer = offer.filter(theirs).ok_or_else(no_offer)?;
        // Who is no owner any more has nothing to hand over.
        if !owners.contains(&offer.from_user) {
            return Err(Error::new(Code::Conflict, "Who offered it is no owner any more.").into());
        }
        members::set_role(tx.conn(), user, Role::Owner.as_str()).await.map_err(Error::from)?;
        members::set_role(tx.conn(), &offer.from_user, Role::Admin.as_str()).await.map_err(Error::from)?;
        ownership::delete(tx.conn()).await.map_err(Error::from)?;
        let details = [("from", offer.from_user.clone()), ("to", user.to_owned())];
        let target = ("member", user);
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "ownership.transferred", target, &details)
            .await?;
        tx.answer(pb::AcceptOwnershipResponse {
            owner_user_id: user.to_owned(),
            former_owner_user_id: offer.from_user,
        })
        .await
    }

    async fn end_ownership_offer(
        &self,
        request: Request<pb::EndOwnershipOfferRequest>,
    ) -> Result<Response<pb::EndOwnershipOfferResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = ctx.require_user()?;
        let mut tx = self.db.tenant(&ctx).await?;
        let offer = ownership::lock(tx.conn(), self.clock.now()).await.map_err(Error::from)?;
        let offer = offer.ok_or_else(no_offer)?;
        if !Besides::OwnerOrOffered.holds(ctx.role, offer.to_user == user) {
            return Err(not_an_owner().into());
        }
        ownership::delete(tx.conn()).await.map_err(Error::from)?;
        let details = [("from", offer.from_user), ("to", offer.to_user.clone())];
        let target = ("member", offer.to_user.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "ownership.offer_ended", target, &details)
            .await?;
        tx.commit().await?;
        Ok(Response::new(pb::EndOwnershipOfferResponse {}))
    }
}

fn not_an_owner() -> Error {
    Error::new(
        Code::PermissionDenied,
        "Ownership is handed over by owners, and taken or declined by whom it is offered to; a custom role does not give that.",
    )
}

fn no_offer() -> Error {
    Error::not_found("offer of ownership that you could answer")
}

fn to_pb(offer: OfferRow) -> pb::OwnershipOffer {
    pb::OwnershipOffer {
        from_user_id: offer.from_user,
        to_user_id: offer.to_user,
        offered_at: Some(to_proto(offer.offered_at)),
        expires_at: Some(to_proto(offer.expires_at)),
    }
}
