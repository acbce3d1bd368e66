//! The command line.

mod access;

use clap::{Parser, Subcommand};

pub use access::{Domains, Support};

use crate::failure::EXIT_CODES;

/// The command line of Nitejar Cloud.
#[derive(Debug, Parser)]
#[command(name = "nitejar", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Where the API is.
    #[arg(long, global = true, env = "NITEJAR_URL", value_name = "URL")]
    pub url: Option<String>,
    /// The organization: its id or slug. `nitejar orgs use` sets it for good.
    #[arg(long, global = true, env = "NITEJAR_ORG", value_name = "ORG")]
    pub org: Option<String>,
    /// JSON instead of a table. Also when the output is no terminal.
    #[arg(long, global = true)]
    pub json: bool,
    /// A table, also when the output is no terminal.
    #[arg(long, global = true, conflicts_with = "json")]
    pub table: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sign in by a link that is sent by e-mail, or keep an API key. NITEJAR_API_KEY serves without signing in.
    Login {
        /// Where the link is sent.
        #[arg(long, conflicts_with = "key_stdin")]
        email: Option<String>,
        /// Read an API key from the input instead.
        #[arg(long)]
        key_stdin: bool,
    },
    /// End what `login` began.
    Logout,
    /// Who is signed in.
    Me,
    /// Organizations.
    #[command(subcommand)]
    Orgs(Orgs),
    /// Members of an organization.
    #[command(subcommand)]
    Members(Members),
    /// Roles.
    #[command(subcommand)]
    Roles(Roles),
    /// Domains whose people may join.
    #[command(subcommand)]
    Domains(Domains),
    /// Access of our support to the organization.
    #[command(subcommand)]
    Support(Support),
    /// May they do it, and why?
    Explain {
        /// user_… or key_…
        actor: String,
        /// Such as jobs.run, or Jobs.CancelJob.
        permission: String,
    },
    /// Agents.
    #[command(subcommand)]
    Agents(Agents),
    /// Give an agent work.
    Run {
        /// The agent: its id or handle.
        agent: String,
        /// What is to be done.
        title: String,
        /// More about it.
        #[arg(long, default_value = "")]
        body: String,
        /// Wait, and show what the job says; exit code 8 when it does not complete.
        #[arg(long, short)]
        follow: bool,
    },
    /// Jobs and their output.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Secrets that agents may get.
    #[command(subcommand)]
    Secrets(Secrets),
    /// API keys of the organization.
    #[command(subcommand)]
    Keys(Keys),
    /// What was used this month, of what.
    Usage,
    /// The audit log.
    #[command(subcommand)]
    Audit(Audit),
    /// Receipts of deleted organizations.
    #[command(subcommand)]
    Receipt(Receipt),
    /// Connect GitHub: prints the address to open in a browser.
    ConnectGithub,
    /// Completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
}

/// Organizations.
#[derive(Debug, Subcommand)]
pub enum Orgs {
    /// Yours.
    List,
    /// Make one.
    Create {
        /// Unique short name for addresses.
        slug: String,
        /// Display name; the slug when absent.
        #[arg(long)]
        name: Option<String>,
    },
    /// One of them.
    Get,
    /// Give it another slug; the old one still leads to it.
    Rename {
        /// The new one.
        slug: String,
    },
    /// Delete it, 30 days from now, with everything in it.
    Delete {
        /// Its slug, once more.
        slug: String,
    },
    /// Keep it after all.
    Restore,
    /// Write everything that is kept of it into a new folder: JSON Lines for each table, and a manifest with their digests.
    Export {
        /// The folder.
        to: std::path::PathBuf,
        /// An export that was begun before, instead of a new one.
        #[arg(long, value_name = "exp_…")]
        id: Option<String>,
    },
    /// Offer its ownership to a member; you become an admin when they accept.
    OfferOwnership {
        /// user_…
        user: String,
    },
    /// Accept the ownership that was offered to you.
    AcceptOwnership,
    /// Act there from now on.
    Use {
        /// Its id or slug.
        org: String,
    },
}

/// Receipts of deleted organizations.
#[derive(Debug, Subcommand)]
pub enum Receipt {
    /// Get that of an organization that you owned.
    Get {
        /// org_…, as it was.
        org: String,
    },
    /// Check one. With --keys nobody is asked.
    Verify {
        /// The receipt; `-` for the input.
        file: std::path::PathBuf,
        /// What `/v1/receipt-keys` answered, kept in a file; fetched when absent.
        #[arg(long, value_name = "FILE")]
        keys: Option<std::path::PathBuf>,
    },
}

/// Members.
#[derive(Debug, Subcommand)]
pub enum Members {
    /// All.
    List,
    /// Ask somebody in; prints the token that accepts.
    Invite {
        /// Their address.
        email: String,
        /// viewer, member, admin or owner.
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Ask everybody in who stands in a table: CSV with a column `email`, and `role` if it has one.
    Import {
        /// The file; `-` for the input.
        file: std::path::PathBuf,
    },
    /// Accept an invitation, whose token is read from the input.
    Accept,
    /// Change a role.
    SetRole {
        /// user_…
        user: String,
        /// viewer, member, admin or owner.
        role: String,
    },
    /// Give custom roles, and no others.
    SetCustomRoles {
        /// user_…
        user: String,
        /// role_…
        roles: Vec<String>,
    },
    /// Remove somebody.
    Remove {
        /// user_…
        user: String,
    },
}

/// Roles.
#[derive(Debug, Subcommand)]
pub enum Roles {
    /// The fixed ones, and the organization's own.
    List,
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// Such as audit.read.
        #[arg(required = true)]
        permissions: Vec<String>,
    },
    /// Delete one; everybody loses it.
    Delete {
        /// role_…
        role: String,
    },
}

/// Agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// All.
    List,
    /// One.
    Get {
        /// Its id or handle.
        agent: String,
    },
    /// Make one.
    Create {
        /// Its handle, as people mention it.
        handle: String,
        /// The shell command that does a job.
        #[arg(long)]
        command: String,
        /// Secrets that it gets as variables.
        #[arg(long = "secret", value_name = "NAME")]
        secrets: Vec<String>,
        /// Issues with one of these labels are its work.
        #[arg(long = "label", value_name = "LABEL")]
        labels: Vec<String>,
        /// Issues and comments that mention it are its work.
        #[arg(long)]
        on_mention: bool,
    },
    /// Give it no more jobs.
    Pause {
        /// Its id or handle.
        agent: String,
    },
    /// Give it jobs again.
    Resume {
        /// Its id or handle.
        agent: String,
    },
    /// Delete it, with its Sprite.
    Delete {
        /// Its id or handle.
        agent: String,
    },
}

/// Jobs.
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// The newest.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Only in this state.
        #[arg(long, default_value = "")]
        state: String,
    },
    /// One.
    Get {
        /// job_…
        job: String,
    },
    /// What it says.
    Logs {
        /// job_…
        job: String,
        /// Until it has ended.
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop it.
    Cancel {
        /// job_…
        job: String,
    },
    /// Do it again.
    Retry {
        /// job_…
        job: String,
    },
}

/// Secrets.
#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Their names.
    List,
    /// Keep one; its value is read from the input.
    Set {
        /// Such as DEPLOY_TOKEN.
        name: String,
    },
    /// Delete one.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// All.
    List,
    /// Make one; its secret is shown once.
    Create {
        /// What it is for.
        name: String,
        /// viewer, member or admin.
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// End one, within a second everywhere.
    Revoke {
        /// key_…
        key: String,
    },
}

/// The audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Events, the oldest first.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only of this action, such as agent.created.
        #[arg(long, default_value = "")]
        action: String,
    },
    /// Whether the chain holds.
    Verify,
}
