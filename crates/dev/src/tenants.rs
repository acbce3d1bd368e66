//! `tenants`: one organization, from all services, into a folder and back. For operators: it needs the databases' owners.
//!
//! A backup is four snapshots, one a service, taken one after the other while the organization goes on: each is whole in
//! itself. Restoring is one transaction a service, and the directory's row last; killed in between, it is run again.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use nitejar_common::clock;
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_db::archive::{Adopt, Manifest};
use nitejar_db::{DatabaseConfig, Db, MigrateMode, Progress, Schema};
use nitejar_tenancy::domain::envelope::{MasterKey, MasterKeys};
use nitejar_tenancy::store::orgs;
use serde::{Deserialize, Serialize};

/// Flags of `tenants`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// JSON: how each service's database is reached, and the master keys.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Take an organization into a new folder.
    Backup {
        /// org_…
        org: OrgId,
        /// The folder.
        to: PathBuf,
    },
    /// Put it back: instead of what the organization has now, or as another one.
    Restore {
        /// The folder.
        from: PathBuf,
        /// org_… of the other one: new, or one that an interrupted run began.
        #[arg(long, requires = "slug")]
        as_org: Option<OrgId>,
        /// The other one's slug.
        #[arg(long)]
        slug: Option<String>,
    },
    /// Move an organization's tables in one service to another of that service's databases, while everything runs: its
    /// requests wait for a moment.
    Move {
        /// org_…
        org: OrgId,
        /// sprites, billing or audit.
        #[arg(long)]
        service: String,
        /// The name that the service's `database.more` gives it; nothing for the first one.
        #[arg(long, default_value = "")]
        to: String,
    },
    /// Bring all organizations of all services to the newest version: what the services do at their start otherwise.
    Migrate,
    /// Print table → digest of what is the same in another organization with the same rows.
    Digests {
        /// The folder of a backup.
        of: PathBuf,
    },
}

/// How to reach everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Service → its database.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// The newest first.
    pub master_keys: Vec<Secret>,
}

/// What tenancy's directory says of an organization, beside its tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OrgFile {
    id: OrgId,
    slug: String,
    name: String,
    created_by: String,
}

const SERVICES: [(&str, Schema); 4] = [
    ("tenancy", nitejar_tenancy::SCHEMA),
    ("sprites", nitejar_sprites::SCHEMA),
    ("billing", nitejar_billing::SCHEMA),
    ("audit", nitejar_audit::SCHEMA),
];

/// Runs it.
pub async fn run(args: Args) -> Result<()> {
    match &args.action {
        Action::Digests { of } => return digests(of),
        Action::Backup { .. } | Action::Restore { .. } | Action::Migrate | Action::Move { .. } => {}
    }
    let text = std::fs::read_to_string(&args.config).with_context(|| args.config.display().to_string())?;
    let config: Config = serde_json::from_str(&text).with_context(|| args.config.display().to_string())?;
    let mut databases = Vec::new();
    for (name, schema) in SERVICES {
        let mut config = config
            .databases
            .get(name)
            .cloned()
            .with_context(|| format!("the configuration names no {name}"))?;
        if matches!(args.action, Action::Migrate) {
            config.migrate = MigrateMode::Later;
        }
        let config = &config;
        databases.push((name, said(Db::open(config, schema, clock::system()).await)?));
    }
    match args.action {
        Action::Backup { org, to } => backup(&databases, &org, &to).await,
        Action::Restore { from, as_org, slug } => {
            restore(&databases, &config.master_keys, &from, as_org.zip(slug)).await
        }
        Action::Migrate => migrate(&databases).await,
        Action::Move { org, service, to } => move_one(&databases, &org, &service, &to).await,
        Action::Digests { .. } => Ok(()),
    }
}

async fn migrate(databases: &[(&str, Db)]) -> Result<()> {
    for (service, db) in
        databases.iter().flat_map(|(service, db)| db.parts().map(move |part| (service, part)))
    {
        let migrated = said(db.migrate_tenants(&|p| bar(service, p)).await)?;
        tell(&format!("{service}: {} tenants migrated", migrated.done));
        if !migrated.laggards.is_empty() {
            tell(&format!("  busy, to be migrated by another run: numbers {:?}", migrated.laggards));
        }
    }
    Ok(())
}

async fn move_one(databases: &[(&str, Db)], org: &OrgId, service: &str, to: &str) -> Result<()> {
    let (_, db) = databases.iter().find(|(name, _)| *name == service).context("there is no such service")?;
    match said(db.move_tenant(org, to).await)? {
        None => tell(&format!("{service}: {org} is there")),
        Some(moved) => tell(&format!(
            "{service}: {org} is moved; {} tables with {} rows, each table with the digest it had; its requests waited {:.1} s",
            moved.tables,
            moved.rows,
            moved.paused.as_secs_f64()
        )),
    }
    Ok(())
}

/// On a terminal only.
fn bar(service: &str, p: Progress) {
    let mut err = std::io::stderr();
    if !err.is_terminal() || p.of == 0 {
        return;
    }
    let filled = usize::try_from(p.done * 30 / p.of).unwrap_or(30).min(30);
    let left = p.left().map_or_else(|| "…".into(), |left| format!("{} s left", left.as_secs()));
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(30 - filled));
    let end = if p.done == p.of { "\n" } else { "" };
    let _ =
        write!(err, "\r{service} [{bar}] {} of {}, {:.0} a second, {left}   {end}", p.done, p.of, p.rate());
}

fn said<T>(result: nitejar_common::Result<T>) -> Result<T> {
    result.map_err(|error| anyhow!("{} {:?}", error.log_text(), error.violations()))
}

#[expect(clippy::print_stdout, reason = "a person at a terminal reads it")]
fn tell(line: &str) {
    println!("{line}");
}

fn digests(of: &Path) -> Result<()> {
    for (service, _) in SERVICES {
        let manifest = said(Manifest::read(&of.join(service)))?;
        for (table, digest) in manifest.portable() {
            tell(&format!("{service} {table} {digest}"));
        }
    }
    Ok(())
}

async fn backup(databases: &[(&str, Db)], org: &OrgId, to: &Path) -> Result<()> {
    if to.exists() {
        bail!("{} is there already: a backup goes into a new folder", to.display());
    }
    // Whole, or not there: the folder gets its name at the end.
    let part = to.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part)?;
    }
    for (service, db) in databases {
        let dir = part.join(service);
        std::fs::create_dir_all(&dir)?;
        let manifest = said(db.take(org, &dir).await)?;
        let rows: u64 = manifest.tables.iter().map(|t| t.rows).sum();
        tell(&format!("{service}: {} tables, {rows} rows", manifest.tables.len()));
    }
    let tenancy = &databases[0].1;
    let row = orgs::get(&mut *said(tenancy.control_once().await)?, org.as_str()).await?;
    let row = row.context("the organization is not in tenancy's directory")?;
    let file = OrgFile { id: org.clone(), slug: row.slug, name: row.name, created_by: row.created_by };
    std::fs::write(part.join("org.json"), serde_json::to_string_pretty(&file)?)?;
    std::fs::rename(&part, to)?;
    tell(&format!("{org} is in {}", to.display()));
    Ok(())
}

async fn restore(
    databases: &[(&str, Db)],
    master_keys: &[Secret],
    from: &Path,
    other: Option<(OrgId, String)>,
) -> Result<()> {
    let text = std::fs::read_to_string(from.join("org.json")).context("this folder holds no whole backup")?;
    let file: OrgFile = serde_json::from_str(&text).context("org.json")?;
    let mut keys = master_keys.iter().map(|k| MasterKey::parse(k).context("a master key is none"));
    let newest = keys.next().context("the configuration names no master key")??;
    let master = Arc::new(MasterKeys::new(newest, keys.collect::<Result<_>>()?));
    for (service, _) in databases {
        let manifest = said(Manifest::read(&from.join(service)))?;
        if manifest.org_id != file.id.as_str() {
            bail!("the folder's parts are of different organizations");
        }
    }
    let (org, slug) = other.unwrap_or_else(|| (file.id.clone(), file.slug.clone()));
    let tenancy = &databases[0].1;
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
    if orgs::get(tx.conn(), org.as_str()).await?.is_none() {
        // Also the platform's own log has such an id.
        for (service, db) in databases {
            if said(db.knows(&org).await)? {
                bail!("{service} knows {org} already: choose an id that nobody has");
            }
        }
    }
    let own = orgs::begin_restore(tx.conn(), &wish, org == file.id, now).await?;
    if !own {
        bail!(
            "the slug {} is taken, {org} is another organization that lives, or it was purged and its id is never used again",
            wish.slug
        );
    }
    let begun = orgs::get(tx.conn(), org.as_str()).await?.context("the directory lost the organization")?;
    said(tx.commit().await)?;
    for (_, db) in databases {
        // Told here, in case that the services do not run.
        said(db.set_state(&org, false, begun.state_version).await)?;
    }
    for (service, db) in databases {
        let adopt: &dyn Adopt = match *service {
            "tenancy" => &nitejar_tenancy::adoption::Adoption(Arc::clone(&master)),
            "sprites" => &nitejar_sprites::adoption::Adoption,
            "billing" => &nitejar_billing::adoption::Adoption,
            _ => &nitejar_audit::adoption::Adoption,
        };
        let restored = said(db.restore(&from.join(service), &org, adopt).await)?;
        let (number, tables) = (restored.number, restored.compared);
        tell(&format!(
            "{service}: put back as number {number}; {tables} tables, each with the digest it had"
        ));
        for (table, rows) in restored.left_out {
            tell(&format!("  {rows} rows of {table} were left out: somebody else has what they name"));
        }
    }
    let mut tx = said(tenancy.control().await)?;
    orgs::end_restore(tx.conn(), org.as_str()).await?;
    said(tx.commit().await)?;
    tell(&format!("{org} is back"));
    Ok(())
}
