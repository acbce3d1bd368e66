//! `tenants`: one organization into a folder and back, to another database, and all to the newest version. For operators: it
//! needs the databases' owners.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_common::{RequestCtx, clock};
use nitejar_db::archive::Manifest;
use nitejar_db::{DatabaseConfig, Db, MigrateMode, Progress, Schema, audit};
use serde::{Deserialize, Serialize};

use crate::backup;

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
    /// Put it back: instead of what the organization has now, which is lost then, or as another one.
    Restore {
        /// The folder.
        from: PathBuf,
        /// org_… of the other one: new, or one that an interrupted run began.
        #[arg(long, requires = "slug")]
        as_org: Option<OrgId>,
        /// The other one's slug.
        #[arg(long, requires = "as_org")]
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
    Migrate {
        /// These organizations and nobody else: canaries, to be looked at before all others follow.
        #[arg(long, value_name = "ORG")]
        only: Vec<OrgId>,
    },
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

pub(crate) const SERVICES: [(&str, Schema); 4] = [
    ("tenancy", nitejar_tenancy::SCHEMA),
    ("sprites", nitejar_sprites::SCHEMA),
    ("billing", nitejar_billing::SCHEMA),
    ("audit", nitejar_audit::SCHEMA),
];

/// Runs it.
pub async fn run(args: Args) -> Result<()> {
    match &args.action {
        Action::Digests { of } => return digests(of),
        Action::Backup { .. } | Action::Restore { .. } | Action::Migrate { .. } | Action::Move { .. } => {}
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
        if matches!(args.action, Action::Migrate { .. }) {
            config.migrate = MigrateMode::Later;
        }
        let config = &config;
        databases.push((name, said(Db::open(config, schema, clock::system()).await)?));
    }
    match args.action {
        Action::Backup { org, to } => {
            backup::backup(&databases, &backup::keys(&config.master_keys)?, &org, &to).await
        }
        Action::Restore { from, as_org, slug } => {
            backup::restore(&databases, backup::keys(&config.master_keys)?, &from, as_org.zip(slug)).await
        }
        Action::Migrate { only } if only.is_empty() => migrate(&databases).await,
        Action::Migrate { only } => migrate_only(&databases, &only).await,
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
            tell("  busy, to be migrated by another run:");
        }
        for number in migrated.laggards {
            let who = said(db.org_of(number).await)?.map_or("nobody's yet".into(), |org| org.to_string());
            tell(&format!("  {who} (number {number})"));
        }
    }
    Ok(())
}

async fn migrate_only(databases: &[(&str, Db)], only: &[OrgId]) -> Result<()> {
    for (service, db) in databases {
        for org in only {
            let how = if said(db.migrate_one(org).await)? { "at the newest version" } else { "busy: again" };
            tell(&format!("{service}: {org} {how}"));
        }
    }
    Ok(())
}

async fn move_one(databases: &[(&str, Db)], org: &OrgId, service: &str, to: &str) -> Result<()> {
    let (_, db) = databases.iter().find(|(name, _)| *name == service).context("there is no such service")?;
    match said(db.move_tenant(org, to).await)? {
        None => tell(&format!("{service}: {org} is there")),
        Some(moved) => {
            let details = [("service", service.to_owned()), ("to", to.to_owned())];
            let mut tx = said(databases[0].1.control().await)?;
            let me = RequestCtx::service("tenants", &*clock::system());
            said(audit::push_of(&mut tx, &me, &*clock::system(), org, "org.moved", &details).await)?;
            said(tx.commit().await)?;
            tell(&format!(
                "{service}: {org} is moved; {} tables with {} rows, each table with the digest it had; its requests waited {:.1} s",
                moved.tables,
                moved.rows,
                moved.paused.as_secs_f64()
            ));
        }
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

pub(crate) fn said<T>(result: nitejar_common::Result<T>) -> Result<T> {
    result.map_err(|error| {
        let each = error
            .violations()
            .iter()
            .map(|v| format!("\n  {} {}", v.pointer.trim_start_matches('/'), v.detail));
        anyhow!("{}{}", error.log_text(), each.collect::<String>())
    })
}

#[expect(clippy::print_stdout, reason = "a person at a terminal reads it")]
pub(crate) fn tell(line: &str) {
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
