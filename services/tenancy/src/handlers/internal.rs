//! What other services ask.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, Utc};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::tenancy_internal_server::TenancyInternal;
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::changes::Changes;
use crate::domain::envelope::Place;
use crate::store::credentials::{self, CredentialRow};
use crate::store::sessions::Named;
use crate::store::{org, rates, secrets, sessions, support};

#[tonic::async_trait]
impl TenancyInternal for Service {
    async fn resolve_credential(
        &self,
        request: Request<pb::ResolveCredentialRequest>,
    ) -> Result<Response<pb::ResolveCredentialResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let r = request.into_inner();
        let session = match r.session_id.as_str() {
            "" => r.session.then_some(Named::Secret(&r.key_sha256)),
            id => Some(Named::Id(id)),
        };
        if let Some(session) = session {
            return Ok(Response::new(self.resolve_session(session, &r.org_id).await?));
        }
        // All of them are compared, whichever matches.
        let mut operator = None;
        for (hash, name) in self.operators.iter() {
            if bool::from(hash.as_slice().ct_eq(&r.key_sha256)) {
                operator = Some(name.clone());
            }
        }
        let now = self.clock.now();
        if let Some(name) = operator {
            return Ok(Response::new(self.resolve_operator(name, &r.org_id, now).await?));
        }
        let found = credentials::resolve(&mut *self.db.control_once().await?, &r.key_sha256, &r.org_id, now)
            .await
            .map_err(Error::from)?;
        let row = found.ok_or_else(|| Error::new(Code::InvalidCredential, "This key is not valid."))?;
        if row.last_used_at.is_none_or(|at| now - at > chrono::Duration::minutes(1)) {
            self.note_use(row.key_id.clone());
        }
        Ok(Response::new(answer(row, &r.org_id)))
    }

    async fn rotate_session(
        &self,
        request: Request<pb::RotateSessionRequest>,
    ) -> Result<Response<pb::RotateSessionResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let session = Service::rotate_session(self, &request.get_ref().sha256).await?;
        Ok(Response::new(pb::RotateSessionResponse { session }))
    }

    type WatchCredentialsStream = Changes;

    async fn watch_credentials(
        &self,
        request: Request<pb::WatchCredentialsRequest>,
    ) -> Result<Response<Changes>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        Ok(Response::new(self.changes()))
    }

    async fn share_rates(
        &self,
        request: Request<pb::ShareRatesRequest>,
    ) -> Result<Response<pb::ShareRatesResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let counts = request.into_inner().counts;
        if counts.len() > 5_000 || counts.iter().any(|c| c.subject.len() != 16) {
            return Err(Error::invalid("/counts", "must be at most 5000, of subjects with 16 bytes").into());
        }
        let (mut subjects, mut minutes, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for c in counts {
            subjects.push(c.subject);
            minutes.push(c.window);
            numbers.push(i64::try_from(c.count).unwrap_or(i64::MAX));
        }
        let sums = rates::add(&mut *self.db.control_once().await?, &subjects, &minutes, &numbers)
            .await
            .map_err(Error::from)?;
        let counts = sums.into_iter().map(|(subject, window, count)| pb::RateCount {
            subject,
            window,
            count: u64::try_from(count).unwrap_or(0),
        });
        Ok(Response::new(pb::ShareRatesResponse { counts: counts.collect() }))
    }

    async fn report_leaks(
        &self,
        request: Request<pb::ReportLeaksRequest>,
    ) -> Result<Response<pb::ReportLeaksResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let r = request.into_inner();
        let labels = self.take_report(&r.key_identifier, &r.signature, &r.body).await?;
        Ok(Response::new(pb::ReportLeaksResponse { labels }))
    }

    async fn get_job_defaults(
        &self,
        request: Request<pb::GetJobDefaultsRequest>,
    ) -> Result<Response<pb::JobDefaults>, Status> {
        let ctx = ctx(&request)?;
        only(&ctx.actor.id, "sprites")?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let row = org::get(tx.conn()).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(pb::JobDefaults { timeout_seconds: row.settings.0.job_timeout_seconds }))
    }

    async fn open_secrets(
        &self,
        request: Request<pb::OpenSecretsRequest>,
    ) -> Result<Response<pb::OpenSecretsResponse>, Status> {
        let ctx = ctx(&request)?;
        only(&ctx.actor.id, "sprites")?;
        let r = request.into_inner();
        if r.names.len() > 32 {
            return Err(Error::invalid("/names", "must be at most 32").into());
        }
        let org = ctx.tenant()?;
        let mut tx = self.db.tenant(&ctx).await?;
        secrets::hold_data_keys(tx.conn()).await.map_err(Error::from)?;
        let rows = secrets::by_names(tx.conn(), &r.names).await.map_err(Error::from)?;
        let mut keys = HashMap::new();
        let mut values = HashMap::new();
        for row in rows {
            let key = match keys.entry(row.data_key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let wrapped = secrets::data_key(tx.conn(), row.data_key).await.map_err(Error::from)?;
                    new.insert(self.master.unwrap_data_key(org, &wrapped)?)
                }
            };
            let place = Place { org, name: &row.name, version: row.version };
            let value = key.open(&row.ciphertext, place)?;
            values.insert(row.name, value.expose().to_owned());
        }
        if !values.is_empty() {
            let mut names: Vec<&str> = values.keys().map(String::as_str).collect();
            names.sort_unstable();
            let details = [("names", names.join(","))];
            let target = ("job", r.job_id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "secret.opened", target, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(pb::OpenSecretsResponse { values }))
    }
}

impl Service {
    /// An operator is nobody in an organization, unless a support grant lets them read there.
    async fn resolve_operator(
        &self,
        name: String,
        org: &str,
        now: DateTime<Utc>,
    ) -> Result<pb::ResolveCredentialResponse> {
        let opening = match org {
            "" => None,
            org => support::opening(&mut *self.db.control_once().await?, org, &name, now).await?,
        };
        let mut answer = pb::ResolveCredentialResponse {
            actor_kind: "operator".into(),
            actor_id: name.clone(),
            actor_name: name,
            ..pb::ResolveCredentialResponse::default()
        };
        if let Some(opening) = opening {
            Role::Viewer.as_str().clone_into(&mut answer.role);
            answer.org_state = opening.org_state;
            answer.support_grant_id = opening.grant_id;
            answer.expires_at = Some(to_proto(opening.expires_at));
        }
        Ok(answer)
    }

    /// Forgets what no window looks at any more, until told to stop.
    pub(crate) async fn forget_old(&self, stop: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(std::time::Duration::from_secs(60)) => {}
            }
            let minute = self.clock.now().timestamp() / 60;
            let mut conn = self.db.control_once().await?;
            rates::forget(&mut conn, minute - 3).await?;
            sessions::forget(&mut conn, self.clock.now()).await?;
        }
    }

    /// Off the caller's path: whether the note succeeds is not their concern.
    fn note_use(&self, key_id: String) {
        let this = self.clone();
        tokio::spawn(async move {
            let noted = async {
                let mut tx = this.db.control().await?;
                credentials::touch(tx.conn(), &key_id, this.clock.now()).await?;
                tx.commit().await
            };
            if let Err(error) = noted.await {
                tracing::warn!(key_id, error = %error.log_text(), "last use not noted");
            }
        });
    }
}

fn answer(row: CredentialRow, asked: &str) -> pb::ResolveCredentialResponse {
    let mut answer = pb::ResolveCredentialResponse {
        key_id: row.key_id.clone(),
        expires_at: row.expires_at.map(to_proto),
        org_state: row.org_state.clone().unwrap_or_default(),
        networks: row.networks,
        requests_per_minute: row.requests_per_minute.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        ..Default::default()
    };
    match (row.user_id, row.org_id) {
        (Some(user), _) => {
            answer.actor_kind = "user".into();
            answer.actor_id = user;
            answer.actor_name = row.user_name.unwrap_or_default();
            if row.org_state.is_some() {
                answer.role = row.member_role.unwrap_or_default();
                answer.grants = row.member_grants.unwrap_or_default();
            }
        }
        (None, home) => {
            answer.actor_kind = "api_key".into();
            answer.actor_id = row.key_id;
            answer.actor_name = row.name;
            answer.home_org_id = home.unwrap_or_default();
            if answer.home_org_id == asked && row.org_state.is_some() {
                answer.role = row.role.unwrap_or_default();
                answer.grants = row.grants;
                answer.scopes = row.scopes.unwrap_or_default();
                answer.scoped = !answer.scopes.is_empty();
            }
        }
    }
    answer
}

fn only(actor: &str, service: &str) -> Result<()> {
    if actor == service {
        Ok(())
    } else {
        Err(Error::new(Code::PermissionDenied, format!("This is for the {service} service only.")))
    }
}
