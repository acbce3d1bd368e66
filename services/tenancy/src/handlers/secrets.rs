//! Secrets: written, listed by name, deleted; never shown.

use std::collections::HashMap;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::secret::Secret;
use nitejar_common::time::to_proto;
use nitejar_db::TenantTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::secrets_server::Secrets;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::envelope::Place;
use crate::mail;
use crate::store::secrets::{self, SecretRow};

/// Secrets of one organization.
const MOST: i64 = 500;

#[tonic::async_trait]
impl Secrets for Service {
    async fn set_secret(
        &self,
        request: Request<pb::SetSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let ctx = ctx(&request)?;
        let pb::SetSecretRequest { name, value, .. } = request.into_inner();
        check_name(&name)?;
        // The gateway counts characters.
        if value.len() > LONGEST {
            return Err(Error::invalid("/value", format!("must be at most {LONGEST} bytes of UTF-8")).into());
        }
        let mut tx = self.db.tenant(&ctx).await?;
        secrets::hold_data_keys(tx.conn()).await.map_err(Error::from)?;
        let before = secrets::lock_version(tx.conn(), &name).await.map_err(Error::from)?;
        if before.is_none() && secrets::count(tx.conn()).await.map_err(Error::from)? >= MOST {
            let detail = format!("An organization has at most {MOST} secrets. Delete one that is not used.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let row = self.seal(&mut tx, &ctx, name, before.unwrap_or(0) + 1, &Secret::new(value)).await?;
        let details = [("version", row.version.to_string())];
        let target = ("secret", row.name.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "secret.set", target, &details).await?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row)))
    }

    async fn list_secret_versions(
        &self,
        request: Request<pb::ListSecretVersionsRequest>,
    ) -> Result<Response<pb::ListSecretVersionsResponse>, Status> {
        let ctx = ctx(&request)?;
        let name = &request.get_ref().name;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = secrets::versions(tx.conn(), name).await.map_err(Error::from)?;
        tx.commit().await?;
        if rows.is_empty() {
            return Err(Error::not_found(format!("secret {name}")).into());
        }
        let versions = rows.into_iter().map(to_pb).collect();
        Ok(Response::new(pb::ListSecretVersionsResponse { versions }))
    }

    async fn restore_secret(
        &self,
        request: Request<pb::RestoreSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let org = ctx.tenant()?;
        let mut tx = self.db.tenant(&ctx).await?;
        secrets::hold_data_keys(tx.conn()).await.map_err(Error::from)?;
        let newest = secrets::lock_version(tx.conn(), &r.name).await.map_err(Error::from)?;
        let newest = newest.ok_or_else(|| Error::not_found(format!("secret {}", r.name)))?;
        let kept = secrets::versions(tx.conn(), &r.name).await.map_err(Error::from)?;
        let old = kept.into_iter().find(|row| u32::try_from(row.version) == Ok(r.version));
        let old =
            old.ok_or_else(|| Error::not_found(format!("version {} of secret {}", r.version, r.name)))?;
        let wrapped = secrets::data_key(tx.conn(), old.data_key).await.map_err(Error::from)?;
        let key = self.master.unwrap_data_key(org, &wrapped)?;
        let place = Place { org, name: &old.name, version: old.version };
        let value = key.open(&old.ciphertext, place)?;
        let row = self.seal(&mut tx, &ctx, r.name, newest + 1, &value).await?;
        let details = [("version", row.version.to_string()), ("from", r.version.to_string())];
        let target = ("secret", row.name.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "secret.restored", target, &details).await?;
        tx.answer(to_pb(row)).await
    }

    async fn rotate_data_key(
        &self,
        request: Request<pb::RotateDataKeyRequest>,
    ) -> Result<Response<pb::RotateDataKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let org = ctx.tenant()?;
        let mut tx = self.db.tenant(&ctx).await?;
        secrets::lock_all(tx.conn()).await.map_err(Error::from)?;
        let wrapped = secrets::lock_data_keys(tx.conn()).await.map_err(Error::from)?;
        let mut keys = HashMap::new();
        for (version, wrapped) in &wrapped {
            keys.insert(*version, self.master.unwrap_data_key(org, wrapped)?);
        }
        let version = wrapped.last().map_or(0, |(version, _)| *version) + 1;
        let (new, sealed) = self.master.new_data_key(org)?;
        secrets::add_data_key(tx.conn(), version, &sealed, self.clock.now()).await.map_err(Error::from)?;
        let mut resealed = 0;
        for mut row in secrets::all_sealed(tx.conn()).await.map_err(Error::from)? {
            let old = keys.get(&row.data_key).ok_or_else(|| Error::internal("a data key is gone"))?;
            let place = Place { org, name: &row.name, version: row.version };
            row.ciphertext = new.seal(&old.open(&row.ciphertext, place)?, place)?;
            row.data_key = version;
            secrets::reseal(tx.conn(), &row).await.map_err(Error::from)?;
            resealed += 1;
        }
        secrets::forget_data_keys(tx.conn(), version).await.map_err(Error::from)?;
        // A replica of before a change of the master key may have done this: then it is wrapped anew.
        secrets::note_master(tx.conn(), &self.master.id()).await.map_err(Error::from)?;
        let details = [("data_key", version.to_string()), ("resealed", resealed.to_string())];
        let target = ("org", org.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "data_key.rotated", target, &details).await?;
        let data_key = u32::try_from(version).unwrap_or(0);
        tx.answer(pb::RotateDataKeyResponse { resealed, data_key }).await
    }

    async fn get_master_key_rotation(
        &self,
        _: Request<pb::GetMasterKeyRotationRequest>,
    ) -> Result<Response<pb::MasterKeyRotation>, Status> {
        let id = self.master.id();
        let mut conn = self.db.control_once().await?;
        let (wrapped, behind) = secrets::rotation(&mut conn, &id).await.map_err(Error::from)?;
        let remaining = behind + mail::behind(&mut conn, &self.master).await?;
        Ok(Response::new(pb::MasterKeyRotation { master_key_id: id, wrapped, remaining }))
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListSecretsRequest>,
    ) -> Result<Response<pb::ListSecretsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = secrets::list(tx.conn(), &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |s| s.name.clone());
        Ok(Response::new(pb::ListSecretsResponse {
            secrets: rows.into_iter().map(to_pb).collect(),
            next_page_token,
        }))
    }

    async fn delete_secret(
        &self,
        request: Request<pb::DeleteSecretRequest>,
    ) -> Result<Response<pb::DeleteSecretResponse>, Status> {
        let ctx = ctx(&request)?;
        let name = &request.get_ref().name;
        let mut tx = self.db.tenant(&ctx).await?;
        if !secrets::delete(tx.conn(), name).await.map_err(Error::from)? {
            return Err(Error::not_found(format!("secret {name}")).into());
        }
        let target = ("secret", name.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "secret.deleted", target, &[]).await?;
        tx.commit().await?;
        Ok(Response::new(pb::DeleteSecretResponse {}))
    }
}

impl Service {
    /// Seals a value as a new version and writes it.
    async fn seal(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        name: String,
        version: i32,
        value: &Secret,
    ) -> Result<SecretRow> {
        let org = ctx.tenant()?;
        let (data_key, wrapped) = secrets::newest_data_key(tx.conn()).await?;
        let key = self.master.unwrap_data_key(org, &wrapped)?;
        let row = SecretRow {
            ciphertext: key.seal(value, Place { org, name: &name, version })?,
            name,
            version,
            data_key,
            updated_at: self.clock.now(),
            updated_by: ctx.actor.id.clone(),
        };
        secrets::put(tx.conn(), &row).await?;
        Ok(row)
    }
}

/// Bytes of a value: a variable of a job's environment can't have more than four times as many.
const LONGEST: usize = 32 * 1024;

/// Also the gateway checks it; but here it becomes part of what the encryption is bound to.
fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
    let rest = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !first || !rest || name.len() > 64 {
        return Err(Error::invalid("/name", "must be A-Z, 0-9 and underscores, beginning with a letter"));
    }
    if OF_JOBS.contains(&name) || name.starts_with("NITEJAR_") || name.starts_with("LD_") {
        let must = "must not be a name that jobs have a value of: PATH, HOME, LANG, TRACEPARENT, or one that begins with NITEJAR_ or LD_";
        return Err(Error::invalid("/name", must));
    }
    Ok(())
}

/// A secret is a variable of a job's environment: with one of these the job would not start, or not be found again.
const OF_JOBS: [&str; 4] = ["PATH", "HOME", "LANG", "TRACEPARENT"];

fn to_pb(row: SecretRow) -> pb::Secret {
    pb::Secret {
        name: row.name,
        version: u32::try_from(row.version).unwrap_or(0),
        updated_at: Some(to_proto(row.updated_at)),
        updated_by: row.updated_by,
    }
}
