//! Connecting an organization to GitHub.

use std::sync::Arc;

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::IntegrationId;
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::integrations_server::Integrations;
use sqlx::types::Json;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::github::Github;
use crate::store::github;
use crate::store::integrations::{self, IntegrationRow};

#[tonic::async_trait]
impl Integrations for Service {
    async fn start_github_install(
        &self,
        request: Request<pb::StartGithubInstallRequest>,
    ) -> Result<Response<pb::StartGithubInstallResponse>, Status> {
        let ctx = ctx(&request)?;
        // Who begins is who must come back: somebody's link must not bind what another person installs.
        ctx.require_user()?;
        let app = self.github()?;
        let state = hex::encode(nitejar_common::rng::bytes::<32>());
        let expires_at = self.clock.now() + chrono::Duration::minutes(15);
        let hash = nitejar_common::key::sha256(&state);
        // The audit event belongs to the tenant, the nonce to nobody yet: the event first, then the nonce. A nonce
        // without an event can't be.
        let mut tx = self.db.tenant(&ctx).await?;
        let target = ("integration", "github");
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "integration.install_started", target, &[])
            .await?;
        tx.commit().await?;
        let mut tx = self.db.control().await?;
        github::begin_install(tx.conn(), &hash, &ctx, expires_at).await.map_err(Error::from)?;
        let url = app.install_url(&state);
        tx.answer(&ctx, pb::StartGithubInstallResponse { url, expires_at: Some(to_proto(expires_at)) }).await
    }

    async fn finish_github_install(
        &self,
        request: Request<pb::FinishGithubInstallRequest>,
    ) -> Result<Response<pb::Integration>, Status> {
        let person = ctx(&request)?.require_user()?.to_owned();
        let r = request.into_inner();
        let app = self.github()?;
        let hash = nitejar_common::key::sha256(&r.state);
        let mut began = None;
        // It was begun in the first database; an organization that is moved takes what it began along.
        for part in self.db.parts_twice() {
            let mut tx = part.control().await?;
            began = github::use_install(tx.conn(), &hash, &person, self.clock.now())
                .await
                .map_err(Error::from)?;
            tx.commit().await?;
            if began.is_some() {
                break;
            }
        }
        let ctx = began.ok_or_else(|| {
            Error::new(
                Code::Conflict,
                "This install link was used, is too old, or is another person's. Start again from the organization.",
            )
        })?;
        // The number in the address is anybody's claim; the user's own list is proof.
        let user = app.exchange_code(&r.code).await?;
        if !app.user_installations(&user).await?.contains(&r.installation_id) {
            return Err(Error::new(
                Code::PermissionDenied,
                "GitHub does not list this installation as yours.",
            )
            .into());
        }
        let found = app.installation(r.installation_id).await?;
        let repositories = app.repositories(r.installation_id).await?;
        let row = IntegrationRow {
            id: IntegrationId::new(&*self.clock).to_string(),
            kind: "github".into(),
            state: "active".into(),
            installation_id: r.installation_id,
            account: found,
            repositories: Json(repositories),
            created_at: self.clock.now(),
        };
        // The primary key refuses a second one in one database; this does among several.
        let mut binding = self.db.control().await?;
        github::one_at_a_time(binding.conn(), r.installation_id).await.map_err(Error::from)?;
        let bound = github::installation_anywhere(&self.db, r.installation_id).await?;
        if bound.is_some_and(|(org, _)| ctx.tenant.as_ref().is_none_or(|own| own.as_str() != org)) {
            return Err(is_bound().into());
        }
        let mut tx = self.db.tenant(&ctx).await?;
        // The same organization connects it again: that is what it has already.
        if let Some(known) =
            integrations::by_installation(tx.conn(), r.installation_id).await.map_err(Error::from)?
        {
            return Ok(Response::new(to_pb(known)));
        }
        integrations::insert(tx.conn(), &row).await.map_err(|e| {
            if is_unique_violation(&e, "github_installations_pkey") { is_bound() } else { e.into() }
        })?;
        let details = [("account", row.account.clone()), ("installation", row.installation_id.to_string())];
        let target = ("integration", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "integration.created", target, &details)
            .await?;
        tx.commit().await?;
        binding.commit().await?;
        Ok(Response::new(to_pb(row)))
    }

    async fn list_integrations(
        &self,
        request: Request<pb::ListIntegrationsRequest>,
    ) -> Result<Response<pb::ListIntegrationsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = integrations::list(tx.conn(), &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |i| i.id.clone());
        let integrations = rows.into_iter().map(to_pb).collect();
        Ok(Response::new(pb::ListIntegrationsResponse { integrations, next_page_token }))
    }

    async fn delete_integration(
        &self,
        request: Request<pb::DeleteIntegrationRequest>,
    ) -> Result<Response<pb::DeleteIntegrationResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().integration_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let row = integrations::lock(tx.conn(), id).await.map_err(Error::from)?;
        let mut row = row.ok_or_else(|| Error::not_found(format!("integration {id}")))?;
        row.state = "deleted".into();
        integrations::save(tx.conn(), &row).await.map_err(Error::from)?;
        let details = [("account", row.account)];
        let target = ("integration", id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "integration.deleted", target, &details)
            .await?;
        tx.commit().await?;
        Ok(Response::new(pb::DeleteIntegrationResponse {}))
    }
}

impl Service {
    fn github(&self) -> Result<&Arc<Github>> {
        self.github
            .as_ref()
            .ok_or_else(|| Error::new(Code::Conflict, "GitHub is not set up here: github.app_id is 0."))
    }
}

fn is_bound() -> Error {
    Error::new(
        Code::InstallationBound,
        "This installation is connected to another organization. Disconnect it there first.",
    )
}

fn to_pb(i: IntegrationRow) -> pb::Integration {
    pb::Integration {
        id: i.id,
        kind: i.kind,
        state: i.state,
        installation_id: i.installation_id,
        account: i.account,
        repositories: i.repositories.0.into_values().take(1000).collect(),
        created_at: Some(to_proto(i.created_at)),
    }
}
