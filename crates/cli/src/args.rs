//! The command line.

use clap::{Parser, Subcommand};

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
    /// Act there from now on.
    Use {
        /// Its id or slug.
        org: String,
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
    /// Accept an invitation, whose token is read from the input.
    Accept,
    /// Change a role.
    SetRole {
        /// user_…
        user: String,
        /// viewer, member, admin or owner.
        role: String,
    },
    /// Remove somebody.
    Remove {
        /// user_…
        user: String,
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
