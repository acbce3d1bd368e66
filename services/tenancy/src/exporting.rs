//! Makes exports: every service's rows, each service's of one snapshot, into parts in the organization's own schema. Killed
//! anywhere, it is begun anew when its pointer is due again.

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::OrgId;
use nitejar_db::{Rows, TenantTx};
use nitejar_proto::common::v1::ExportTenantRequest;
use nitejar_proto::common::v1::tenants_client::TenantsClient;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::store::exports::{self, PartRow, TableRow};

/// How often to look when nothing wakes us.
const EVERY: Duration = Duration::from_secs(1);
/// Whoever is killed is followed by another after so long. No export takes longer.
const LEASE: chrono::Duration = chrono::Duration::minutes(15);
/// One service's rows.
const DEADLINE: Duration = Duration::from_secs(240);
/// A portion ends with a whole row, which may be large.
const LARGEST: usize = 32 << 20;
/// Then it has failed, and its owners begin another one.
const ATTEMPTS: i32 = 5;

/// What one attempt has got to.
struct Attempt<'a> {
    service: &'a Service,
    ctx: &'a RequestCtx,
    id: &'a str,
    attempt: i32,
    number: i32,
    tables: Vec<TableRow>,
    digest: Sha256,
}

impl Service {
    pub(crate) async fn make_exports(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            if let Err(error) = self.export_turn().await {
                tracing::warn!(error = %error.log_text(), "exports; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.export_asked.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    async fn export_turn(&self) -> Result<()> {
        let now = self.clock.now();
        // One at a time: each has its whole lease.
        let due = exports::take_due(&mut *self.db.control_once().await?, now, now + LEASE).await?;
        if let Some((org, id, attempts)) = due {
            self.export_asked.notify_one(); // There may be another.
            let org: OrgId = org.parse()?;
            let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org);
            match self.one_export(&ctx, &id, attempts).await {
                // The organization is gone, and its exports with it.
                Err(error) if error.code() == Code::NotFound => {}
                Err(error) => {
                    tracing::warn!(export = id, error = %error.log_text(), "an export is begun anew later")
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes one that is to be made, deletes one whose time is over.
    async fn one_export(&self, ctx: &RequestCtx, id: &str, attempts: i32) -> Result<()> {
        let now = self.clock.now();
        let mut tx = self.db.tenant(ctx).await?;
        let Some(row) = exports::lock(tx.conn(), id).await? else {
            exports::delete(tx.conn(), id).await?;
            return tx.commit().await;
        };
        if row.state != "running" {
            if row.expires_at <= now {
                exports::delete(tx.conn(), id).await?;
            }
            return tx.commit().await;
        }
        if attempts >= ATTEMPTS {
            exports::end(tx.conn(), id, "failed", &[], now).await?;
            return tx.commit().await;
        }
        exports::begin(tx.conn(), id, attempts + 1).await?;
        tx.commit().await?;

        let mut attempt = Attempt {
            service: self,
            ctx,
            id,
            attempt: attempts + 1,
            number: 0,
            tables: Vec::new(),
            digest: Sha256::new(),
        };
        let [sprites, billing, audit] = &*self.tenants_of;
        attempt.own().await?;
        for (name, upstream) in [("sprites", sprites), ("billing", billing), ("audit", audit)] {
            attempt.of(name, upstream).await?;
        }
        attempt.close_table();
        let mut tx = attempt.still().await?;
        let tables = attempt.tables;
        exports::end(tx.conn(), id, "ready", &tables, self.clock.now()).await?;
        tx.commit().await
    }
}

impl Attempt<'_> {
    /// This service's rows.
    async fn own(&mut self) -> Result<()> {
        let (to, mut from) = tokio::sync::mpsc::channel(2);
        let (db, ctx) = (self.service.db.clone(), self.ctx.clone());
        let reading = tokio::spawn(async move { db.export(&ctx, &to).await });
        while let Some(rows) = from.recv().await {
            self.add("tenancy", rows).await?;
        }
        reading.await?
    }

    /// Another service's.
    async fn of(&mut self, name: &str, upstream: &Upstream) -> Result<()> {
        let me = RequestCtx::service("tenancy", &*self.service.clock);
        let message = ExportTenantRequest { org_id: self.ctx.tenant()?.to_string() };
        let request = upstream.request_within(&me, message, DEADLINE)?;
        let mut client = TenantsClient::new(upstream.channel()).max_decoding_message_size(LARGEST);
        let mut rows = client.export_tenant(request).await?.into_inner();
        while let Some(r) = rows.message().await? {
            self.add(name, Rows { table: r.table, lines: r.lines, rows: r.rows }).await?;
        }
        Ok(())
    }

    async fn add(&mut self, service: &str, rows: Rows) -> Result<()> {
        let same = self.tables.last().is_some_and(|t| t.service == service && t.table == rows.table);
        if !same {
            self.close_table();
            let table = rows.table.clone();
            self.tables.push(TableRow { service: service.into(), table, rows: 0, sha256: String::new() });
        }
        self.digest.update(&rows.lines);
        if let Some(table) = self.tables.last_mut() {
            table.rows += rows.rows;
        }
        if rows.lines.is_empty() {
            return Ok(());
        }
        self.number += 1;
        let part = PartRow {
            number: self.number,
            service: service.into(),
            table_name: rows.table,
            rows: i64::try_from(rows.rows).unwrap_or(i64::MAX),
            size: 0,
            sha256: hex::encode(Sha256::digest(&rows.lines)),
        };
        // Each part by itself: an export of a large organization is no large transaction.
        let mut tx = self.still().await?;
        exports::add_part(tx.conn(), self.id, &part, &rows.lines).await?;
        tx.commit().await
    }

    /// A transaction in which it is still wanted, and still ours.
    async fn still(&self) -> Result<TenantTx> {
        let mut tx = self.service.db.tenant(self.ctx).await?;
        let row = exports::lock(tx.conn(), self.id).await?;
        match row.filter(|row| row.state == "running" && row.attempt == self.attempt) {
            Some(_) => Ok(tx),
            None => Err(Error::not_found("export that is still wanted")),
        }
    }

    /// The digest of the table before is known when the next one begins.
    fn close_table(&mut self) {
        let digest = std::mem::take(&mut self.digest).finalize();
        if let Some(table) = self.tables.last_mut() {
            table.sha256 = hex::encode(digest);
        }
    }
}
