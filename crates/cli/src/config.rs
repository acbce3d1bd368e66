//! What is kept between commands, in a file that only its owner can read.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// The file's content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where the API is.
    pub url: String,
    /// `njk_…`
    pub key: String,
    /// The key's id, so that `logout` can end it. Empty: the key was given by hand.
    pub key_id: String,
    /// Where commands act unless told otherwise.
    pub org: String,
}

/// Where it is: `NITEJAR_CONFIG`, or the usual place.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NITEJAR_CONFIG") {
        return Ok(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let base = base.ok_or_else(|| Failure::new("Neither HOME nor NITEJAR_CONFIG is set."))?;
    Ok(base.join("nitejar/config.json"))
}

impl Config {
    /// What is kept; nothing when there is no file.
    pub fn load() -> Result<Self> {
        let path = path()?;
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Failure::new(format!("{} can't be read: {e}. Delete it and sign in.", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
        }
    }

    /// Keeps it: whole or not at all.
    pub fn save(&self) -> Result<()> {
        let path = path()?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        Ok(())
    }
}
