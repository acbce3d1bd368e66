//! Exports of an organization.

use chrono::Duration;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::ExportId;
use nitejar_common::time::to_proto;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::common::v1::RawBody;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::exports_server::Exports;
use sqlx::types::Json;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::store::exports::{self, ExportRow, PartRow};

/// How long one is kept.
const KEPT: Duration = Duration::days(7);
/// How many are.
const MOST: usize = 5;

#[tonic::async_trait]
impl Exports for Service {
    async fn create_export(
        &self,
        request: Request<pb::CreateExportRequest>,
    ) -> Result<Response<pb::Export>, Status> {
        let ctx = ctx(&request)?;
        let now = self.clock.now();
        let row = ExportRow {
            id: ExportId::new(&*self.clock).to_string(),
            state: "running".into(),
            requested_by: ctx.actor.id.clone(),
            created_at: now,
            finished_at: None,
            expires_at: now + KEPT,
            attempt: 0,
            tables: Json(Vec::new()),
        };
        let mut tx = self.db.tenant(&ctx).await?;
        for old in exports::list(tx.conn()).await.map_err(Error::from)?.iter().skip(MOST - 1) {
            exports::delete(tx.conn(), &old.id).await.map_err(Error::from)?;
        }
        exports::insert(tx.conn(), &row).await.map_err(|e| {
            if is_unique_violation(&e, "exports_running") {
                Error::new(Code::Conflict, "An export is being made. Wait for it, or delete it.")
            } else {
                e.into()
            }
        })?;
        let target = ("export", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "export.requested", target, &[]).await?;
        let answer = tx.answer(to_pb(row, Vec::new())).await;
        self.export_asked.notify_one();
        answer
    }

    async fn get_export(
        &self,
        request: Request<pb::GetExportRequest>,
    ) -> Result<Response<pb::Export>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().export_id;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let row = exports::get(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| none(id))?;
        let parts = match row.state.as_str() {
            "ready" => exports::parts(tx.conn(), id).await.map_err(Error::from)?,
            _ => Vec::new(),
        };
        tx.commit().await?;
        Ok(Response::new(to_pb(row, parts)))
    }

    async fn list_exports(
        &self,
        request: Request<pb::ListExportsRequest>,
    ) -> Result<Response<pb::ListExportsResponse>, Status> {
        let ctx = ctx(&request)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = exports::list(tx.conn()).await.map_err(Error::from)?;
        tx.commit().await?;
        let brief = |row: ExportRow| to_pb(ExportRow { tables: Json(Vec::new()), ..row }, Vec::new());
        Ok(Response::new(pb::ListExportsResponse { exports: rows.into_iter().map(brief).collect() }))
    }

    async fn get_export_part(
        &self,
        request: Request<pb::GetExportPartRequest>,
    ) -> Result<Response<RawBody>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let number = i32::try_from(r.part).unwrap_or(0);
        let mut tx = self.db.tenant_read(&ctx).await?;
        let content = exports::content(tx.conn(), &r.export_id, number).await.map_err(Error::from)?;
        tx.commit().await?;
        let content = content
            .ok_or_else(|| Error::not_found(format!("part {number} of a ready export {}", r.export_id)))?;
        Ok(Response::new(RawBody { content_type: "text/plain; charset=utf-8".into(), content }))
    }

    async fn delete_export(
        &self,
        request: Request<pb::DeleteExportRequest>,
    ) -> Result<Response<pb::DeleteExportResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().export_id;
        let mut tx = self.db.tenant(&ctx).await?;
        exports::lock(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| none(id))?;
        exports::delete(tx.conn(), id).await.map_err(Error::from)?;
        let target = ("export", id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "export.deleted", target, &[]).await?;
        tx.commit().await?;
        Ok(Response::new(pb::DeleteExportResponse {}))
    }
}

fn none(id: &str) -> Error {
    Error::not_found(format!("export {id}"))
}

fn to_pb(row: ExportRow, parts: Vec<PartRow>) -> pb::Export {
    let tables = row.tables.0.into_iter();
    pb::Export {
        id: row.id,
        state: row.state,
        requested_by: row.requested_by,
        created_at: Some(to_proto(row.created_at)),
        finished_at: row.finished_at.map(to_proto),
        expires_at: Some(to_proto(row.expires_at)),
        tables: tables
            .map(|t| pb::ExportTable {
                service: t.service,
                table: t.table,
                rows: i64::try_from(t.rows).unwrap_or(i64::MAX),
                sha256: t.sha256,
            })
            .collect(),
        parts: parts
            .into_iter()
            .map(|p| pb::ExportPart {
                number: u32::try_from(p.number).unwrap_or(0),
                service: p.service,
                table: p.table_name,
                rows: p.rows,
                size: p.size,
                sha256: p.sha256,
            })
            .collect(),
    }
}
