//! `tenants backup` and `tenants restore`.
//!
//! A backup is four snapshots, one a service, taken one after the other while the organization goes on: each is whole in
//! itself. A seal made with the master key covers all of them: only what we wrote is put back. Restoring is one transaction a
//! service, and the directory's row last; killed in between, it is run again.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_common::{RequestCtx, clock};
use nitejar_db::archive::{Adopt, Manifest};
use nitejar_db::{Db, LeaderGuard, audit};
use nitejar_tenancy::domain::envelope::{MasterKey, MasterKeys};
use nitejar_tenancy::domain::slug;
use nitejar_tenancy::store::orgs;
use serde::{Deserialize, Serialize};

use crate::tenants::{SERVICES, said, tell};

/// The file that vouches for all others.
const SEAL: &str = "seal";

/// What tenancy's directory says of an organization, beside its tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OrgFile {
    id: OrgId,
    slug: String,
    name: String,
    created_by: String,
}

/// The configuration's keys, the newest first.
pub(crate) fn keys(texts: &[Secret]) -> Result<MasterKeys> {
    let mut keys = texts.iter().map(|k| MasterKey::parse(k).context("a master key is none"));
    let newest = keys.next().context("the configuration names no master key")??;
    Ok(MasterKeys::new(newest, keys.collect::<Result<_>>()?))
}

/// Of the manifests, which tell the digest of every other file, and of what the directory says.
fn digest(dir: &Path) -> Result<[u8; 32]> {
    let manifests = SERVICES.iter().map(|(service, _)| format!("{service}/manifest.json"));
    let mut all = String::new();
    for name in std::iter::once("org.json".to_owned()).chain(manifests) {
        let text = std::fs::read_to_string(dir.join(&name))
            .with_context(|| format!("this folder holds no whole backup: {name}"))?;
        all.push_str(&format!("{name} {}\n{text}", text.len()));
    }
    Ok(nitejar_common::key::sha256(&all))
}

/// Takes an organization into a new folder.
pub(crate) async fn backup(
    databases: &[(&str, Db)],
    keys: &MasterKeys,
    org: &OrgId,
    to: &Path,
) -> Result<()> {
    if to.exists() {
        bail!("{} is there already: a backup goes into a new folder", to.display());
    }
    // Whole, or not there: the folder gets its name at the end. Until then it has one that no other run chooses.
    let mut part = to.as_os_str().to_owned();
    part.push(format!(".{}.part", hex::encode(nitejar_common::rng::bytes::<4>())));
    let part = PathBuf::from(part);
    let taken = take(databases, keys, org, &part).await;
    if taken.is_err() {
        let _ = std::fs::remove_dir_all(&part);
    }
    taken?;
    if let Err(error) = std::fs::rename(&part, to) {
        let _ = std::fs::remove_dir_all(&part);
        return Err(error).with_context(|| to.display().to_string());
    }
    tell(&format!("{org} is in {}", to.display()));
    Ok(())
}

async fn take(databases: &[(&str, Db)], keys: &MasterKeys, org: &OrgId, part: &Path) -> Result<()> {
    for (service, db) in databases {
        let dir = part.join(service);
        // Hashes of keys and sealed secrets are for nobody else's eyes.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let manifest = said(db.take(org, &dir).await)?;
        let rows: u64 = manifest.tables.iter().map(|t| t.rows).sum();
        tell(&format!("{service}: {} tables, {rows} rows", manifest.tables.len()));
    }
    let tenancy = &databases[0].1;
    let row = orgs::get(&mut *said(tenancy.control_once().await)?, org.as_str()).await?;
    let row = row.context("the organization is not in tenancy's directory")?;
    let file = OrgFile { id: org.clone(), slug: row.slug, name: row.name, created_by: row.created_by };
    std::fs::write(part.join("org.json"), serde_json::to_string_pretty(&file)?)?;
    std::fs::write(part.join(SEAL), said(keys.seal_archive(org, &digest(part)?))?)?;
    Ok(())
}

/// Nobody else restores it until what is answered is dropped.
async fn alone(tenancy: &Db, org: &OrgId) -> Result<LeaderGuard> {
    let digest = nitejar_common::key::sha256(&format!("restore|{org}"));
    let key = digest.first_chunk().map_or(0, |first| i64::from_be_bytes(*first));
    for _ in 0..40 {
        if let Some(alone) = said(tenancy.try_leader(key).await)? {
            return Ok(alone);
        }
        // A server takes a moment to see that its client was killed.
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    bail!("another restore of {org} is at work: wait until it has ended")
}

/// Puts an organization's rows back, service by service.
async fn put(
    databases: &[(&str, Db)],
    master: &Arc<MasterKeys>,
    from: &Path,
    org: &OrgId,
    state_version: i64,
) -> Result<()> {
    for (_, db) in databases {
        // Told here, in case that the services do not run.
        said(db.set_state(org, false, state_version).await)?;
    }
    for (service, db) in databases {
        let adopt: &dyn Adopt = match *service {
            "tenancy" => &nitejar_tenancy::adoption::Adoption(Arc::clone(master)),
            "sprites" => &nitejar_sprites::adoption::Adoption,
            "billing" => &nitejar_billing::adoption::Adoption,
            _ => &nitejar_audit::adoption::Adoption,
        };
        let Some(restored) = said(db.restore(&from.join(service), org, adopt).await)? else {
            tell(&format!("{service}: stays as it is: a log is never put back over one that goes on"));
            continue;
        };
        let (number, tables) = (restored.number, restored.compared);
        tell(&format!(
            "{service}: put back as number {number}; {tables} tables, each with the digest it had"
        ));
        for (table, rows) in restored.left_out {
            tell(&format!("  {rows} rows of {table} were left out: somebody else has what they name"));
        }
    }
    Ok(())
}

/// Puts it back, in its place or as another one.
pub(crate) async fn restore(
    databases: &[(&str, Db)],
    master: MasterKeys,
    from: &Path,
    other: Option<(OrgId, String)>,
) -> Result<()> {
    let text = std::fs::read_to_string(from.join("org.json")).context("this folder holds no whole backup")?;
    let file: OrgFile = serde_json::from_str(&text).context("org.json")?;
    let seal = std::fs::read(from.join(SEAL)).with_context(|| format!("this backup has no {SEAL}"))?;
    let archive = digest(from)?;
    if !master.sealed_archive(&file.id, &seal, &archive) {
        bail!(
            "this backup was changed, or it was sealed by a master key that the configuration does not name: add the key \
             of that time to master_keys"
        );
    }
    let master = Arc::new(master);
    // All of it is looked at before anything of it is put anywhere.
    for (service, db) in databases {
        let manifest = said(db.check(&from.join(service)).await)?;
        if manifest.org_id != file.id.as_str() {
            bail!("the folder's parts are of different organizations");
        }
    }
    if let Some((org, slug)) = &other {
        if *org == file.id {
            bail!("the backup is of {org} itself: leave --as-org and --slug out to put it back in its place");
        }
        said(slug::check(slug))?;
    }
    let (org, slug) = other.unwrap_or_else(|| (file.id.clone(), file.slug.clone()));
    let tenancy = &databases[0].1;
    let _alone = alone(tenancy, &org).await?;
    let now = clock::system().now();
    // While it is put back nobody changes anything: suspended, or not there yet for anybody.
    let mut tx = said(tenancy.control().await)?;
    let wish = orgs::OrgsRow {
        id: org.to_string(),
        slug,
        name: file.name,
        created_by: file.created_by,
        created_at: now,
        ..orgs::OrgsRow::default()
    };
    let before = orgs::lock(tx.conn(), org.as_str()).await?;
    if let Some(held) = before.as_ref().filter(|row| row.held_at.is_some()) {
        bail!("a legal hold keeps {org} as it is ({}): release it first", held.held_because);
    }
    if before.is_none() {
        // Also the platform's own log has such an id.
        for (service, db) in databases {
            if said(db.knows(&org).await)? {
                bail!("{service} knows {org} already: choose an id that nobody has");
            }
        }
    }
    let may = orgs::begin_restore(tx.conn(), &wish, &archive, org == file.id, now).await?;
    if !may {
        bail!(
            "the slug {} is taken, {org} is another organization that lives, or it was purged and its id is never used again",
            wish.slug
        );
    }
    let begun = orgs::get(tx.conn(), org.as_str()).await?.context("the directory lost the organization")?;
    let number = said(tenancy.number_of(&org).await)?;
    said(tx.commit().await)?;
    let put = put(databases, &master, from, &org, begun.state_version).await;
    // Tenancy is the first. Where it has what it had, everybody has, and all is as it was.
    if put.is_err() && said(tenancy.number_of(&org).await)? == number {
        let mut tx = said(tenancy.control().await)?;
        match &before {
            None => orgs::give_up_copy(tx.conn(), org.as_str(), &archive).await?,
            Some(row) if row.restoring.is_none() => orgs::end_restore(tx.conn(), org.as_str()).await?,
            Some(_) => {}
        }
        said(tx.commit().await)?;
    }
    put?;
    let mut tx = said(tenancy.control().await)?;
    orgs::end_restore(tx.conn(), org.as_str()).await?;
    let taken = said(Manifest::read(&from.join("tenancy")))?.taken_at;
    let details = [
        ("backup_of", file.id.to_string()),
        ("backup_taken_at", taken.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
    ];
    let me = RequestCtx::service("tenants", &*clock::system());
    said(audit::push_of(&mut tx, &me, &*clock::system(), &org, "org.restored_from_backup", &details).await)?;
    said(tx.commit().await)?;
    tell(&format!("{org} is back"));
    Ok(())
}
