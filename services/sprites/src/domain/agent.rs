//! What an agent does, and which work it takes.

use nitejar_common::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// As kept, and as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The shell command of a job.
    pub command: String,
    /// Names of secrets in its environment.
    pub secrets: Vec<String>,
    /// Jobs at the same time; 0: one.
    pub concurrency: u32,
    /// Wall time of a job in seconds; 0: [`TIMEOUT`].
    pub timeout_seconds: u32,
    /// Only these repositories; empty: all.
    pub repositories: Vec<String>,
    /// Takes what has one of these labels.
    pub labels: Vec<String>,
    /// Takes what mentions it.
    pub on_mention: bool,
    /// Takes all that is opened.
    pub on_opened: bool,
    /// Limits of a job.
    pub limits: Limits,
}

/// Limits of one job; 0: the platform's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// CPU time in seconds.
    pub cpu_seconds: u32,
    /// MiB.
    pub memory_mib: u32,
    /// At a time.
    pub processes: u32,
    /// MiB.
    pub disk_mib: u32,
}

/// Wall time of a job, unless said otherwise, in seconds.
pub const TIMEOUT: u32 = 3600;

impl Limits {
    /// With the defaults filled in.
    pub fn effective(self) -> Self {
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        Self {
            cpu_seconds: or(self.cpu_seconds, 1800),
            memory_mib: or(self.memory_mib, 1024),
            processes: or(self.processes, 128),
            disk_mib: or(self.disk_mib, 1024),
        }
    }
}

impl Config {
    /// Jobs at the same time.
    pub fn slots(&self) -> u32 {
        self.concurrency.clamp(1, 16)
    }

    /// Takes the fields that the mask names (`config`, `config.command`, …) from `from`.
    pub fn apply(&mut self, from: &Config, path: &str) -> Result<()> {
        match path {
            "config" => *self = from.clone(),
            "config.command" => self.command.clone_from(&from.command),
            "config.secrets" => self.secrets.clone_from(&from.secrets),
            "config.concurrency" => self.concurrency = from.concurrency,
            "config.timeout_seconds" => self.timeout_seconds = from.timeout_seconds,
            "config.repositories" => self.repositories.clone_from(&from.repositories),
            "config.labels" => self.labels.clone_from(&from.labels),
            "config.on_mention" => self.on_mention = from.on_mention,
            "config.on_opened" => self.on_opened = from.on_opened,
            "config.limits" => self.limits = from.limits,
            "config.limits.cpu_seconds" => self.limits.cpu_seconds = from.limits.cpu_seconds,
            "config.limits.memory_mib" => self.limits.memory_mib = from.limits.memory_mib,
            "config.limits.processes" => self.limits.processes = from.limits.processes,
            "config.limits.disk_mib" => self.limits.disk_mib = from.limits.disk_mib,
            other => {
                return Err(Error::invalid(
                    "/update_mask",
                    format!("must name fields that can change; {other} can't"),
                ));
            }
        }
        Ok(())
    }
}

/// What routing looks at.
#[derive(Clone, Debug, Default)]
pub struct Signal<'a> {
    /// `owner/name`.
    pub repository: &'a str,
    /// Labels of the issue or pull request.
    pub labels: Vec<&'a str>,
    /// The text that may mention a handle.
    pub text: &'a str,
    /// Whether something was opened (rather than commented on).
    pub opened: bool,
}

/// Whether an agent takes it: its repository, and one of label, mention, opened.
pub fn takes(handle: &str, config: &Config, signal: &Signal<'_>) -> bool {
    let here = config.repositories.is_empty()
        || config.repositories.iter().any(|r| r.eq_ignore_ascii_case(signal.repository));
    let labelled = config.labels.iter().any(|l| signal.labels.iter().any(|s| s.eq_ignore_ascii_case(l)));
    here && (labelled
        || (config.on_mention && mentions(signal.text, handle))
        || (config.on_opened && signal.opened))
}

/// `@handle` as a word of its own: not inside of an address, not the beginning of a longer handle.
fn mentions(text: &str, handle: &str) -> bool {
    let wordy = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let (text, needle) = (text.to_lowercase(), format!("@{handle}"));
    text.match_indices(&needle).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + needle.len()..].chars().next();
        !before.is_some_and(|c| wordy(c) || c == '.' || c == '/') && !after.is_some_and(wordy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mention_is_a_word() {
        for yes in ["@bot", "hi @bot!", "(@bot)", "@Bot, please", "x\n@bot\ny"] {
            assert!(mentions(yes, "bot"), "{yes}");
        }
        for no in ["bot", "me@bot.com", "@bots", "@bot-two", "a@bot", "github.com/@bot"] {
            assert!(!mentions(no, "bot"), "{no}");
        }
    }

    #[test]
    fn an_agent_takes_its_repositories_by_label_mention_or_opening() {
        let signal =
            |opened| Signal { repository: "Octo/Repo", labels: vec!["Bug"], text: "hello @fixer", opened };
        let config = |f: &dyn Fn(&mut Config)| {
            let mut c = Config::default();
            f(&mut c);
            c
        };
        assert!(!takes("fixer", &Config::default(), &signal(true)), "nothing asked for, nothing taken");
        assert!(takes("fixer", &config(&|c| c.on_mention = true), &signal(false)));
        assert!(!takes("other", &config(&|c| c.on_mention = true), &signal(false)));
        assert!(takes("x", &config(&|c| c.labels = vec!["bug".into()]), &signal(false)));
        assert!(takes("x", &config(&|c| c.on_opened = true), &signal(true)));
        assert!(!takes("x", &config(&|c| c.on_opened = true), &signal(false)));
        let elsewhere = config(&|c| {
            c.on_opened = true;
            c.repositories = vec!["octo/other".into()];
        });
        assert!(!takes("x", &elsewhere, &signal(true)));
    }
}
