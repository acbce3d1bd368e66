//! Secrets: written, listed by name, deleted; never shown.

use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::secret::Secret;
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::secrets_server::Secrets;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::envelope::Place;
use crate::store::secrets::{self, SecretRow};

#[tonic::async_trait]
impl Secrets for Service {
    async fn set_secret(
        &self,
        request: Request<pb::SetSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let ctx = ctx(&request)?;
        let pb::SetSecretRequest { name, value, .. } = request.into_inner();
        let value = Secret::new(value);
        check_name(&name)?;
        let org = ctx.tenant()?;
        let mut tx = self.db.tenant(&ctx).await?;
        let version = secrets::lock_version(tx.conn(), &name).await.map_err(Error::from)?.unwrap_or(0) + 1;
        let (data_key, wrapped) = secrets::newest_data_key(tx.conn()).await.map_err(Error::from)?;
        let key = self.master.unwrap_data_key(org, &wrapped)?;
        let row = SecretRow {
            ciphertext: key.seal(&value, Place { org, name: &name, version })?,
            name,
            version,
            data_key,
            updated_at: self.clock.now(),
            updated_by: ctx.actor.id.clone(),
        };
        secrets::put(tx.conn(), &row).await.map_err(Error::from)?;
        let details = [("version", version.to_string())];
        let target = ("secret", row.name.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "secret.set", target, &details).await?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row)))
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

/// Also the gateway checks it; but here it becomes part of what the encryption is bound to.
fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
    let rest = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if first && rest && name.len() <= 64 {
        Ok(())
    } else {
        Err(Error::invalid("/name", "must be A-Z, 0-9 and underscores, beginning with a letter"))
    }
}

fn to_pb(row: SecretRow) -> pb::Secret {
    pb::Secret {
        name: row.name,
        version: u32::try_from(row.version).unwrap_or(0),
        updated_at: Some(to_proto(row.updated_at)),
        updated_by: row.updated_by,
    }
}
