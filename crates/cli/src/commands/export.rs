//! Everything of an organization, into a folder.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Here;
use crate::api::part;
use crate::failure::{Failure, Result};
use crate::output::aside;

/// How often to ask whether it is ready.
const EVERY: Duration = Duration::from_millis(500);

impl Here {
    pub(super) async fn export(&self, to: &Path, id: Option<String>) -> Result<()> {
        let wrong = |error: std::io::Error| Failure::new(format!("{}: {error}", to.display()));
        if to.exists() {
            let text = format!("{} is there already. Name a folder that is not: it is made.", to.display());
            return Err(Failure::new(text));
        }
        let id = match id {
            Some(id) => id,
            None => text(&self.post(&self.at("/exports").await?, json!({})).await?, "id"),
        };
        let path = self.at(&format!("/exports/{}", part(&id))).await?;
        let export = loop {
            let export = self.get(&path).await?;
            match text(&export, "state").as_str() {
                "running" => tokio::time::sleep(EVERY).await,
                "ready" => break export,
                _ => return Err(Failure::new("The export failed. Begin another one.")),
            }
        };
        std::fs::create_dir(to).map_err(wrong)?;
        let parts = export["parts"].as_array().cloned().unwrap_or_default();
        for (i, part) in parts.iter().enumerate() {
            let bytes = self.api.bytes(&format!("{path}/parts/{}", part["number"])).await.inspect_err(|_| {
                aside(&format!("It is kept for 7 days. Fetch it into another folder: nitejar orgs export --id {id} FOLDER"));
            })?;
            if hex(&Sha256::digest(&bytes)) != text(part, "sha256") {
                return Err(Failure::new(format!("Part {} arrived changed. Run it again.", part["number"])));
            }
            // Names of ours hold no separator; whatever a server says, nothing is written elsewhere.
            let (service, table) = (plain(text(part, "service"))?, plain(text(part, "table"))?);
            let dir = to.join(service);
            std::fs::create_dir_all(&dir).map_err(wrong)?;
            let file = dir.join(format!("{table}.jsonl"));
            let file = OpenOptions::new().create(true).append(true).open(file);
            file.and_then(|mut file| file.write_all(&bytes)).map_err(wrong)?;
            progress(i + 1, parts.len());
        }
        let manifest = serde_json::to_string_pretty(&export)?;
        std::fs::write(to.join("manifest.json"), manifest).map_err(wrong)?;
        let tables = export["tables"].as_array().map_or(0, Vec::len);
        self.shape.done(&format!("{tables} tables are in {}.", to.display()), &export)
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn plain(name: String) -> Result<String> {
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good { Ok(name) } else { Err(Failure::new("The server names a table that is none.")) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// On a terminal only.
fn progress(done: usize, of: usize) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let end = if done == of { "\n" } else { "" };
        let _ = write!(err, "\r{done} of {of} parts{end}");
    }
}
