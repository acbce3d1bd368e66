//! Domains whose people may join.

use reqwest::Method;
use serde_json::{Value, json};

use super::Here;
use crate::api::part;
use crate::args::Domains;
use crate::failure::{Failure, Result};

impl Here {
    pub(super) async fn domains(&self, domains: Domains) -> Result<()> {
        match domains {
            Domains::List => {
                let found = self.get(&self.at("/domains").await?).await?;
                let list = found["domains"].as_array().cloned().unwrap_or_default();
                self.shape.list(
                    &list,
                    &[
                        ("NAME", "unicode_name"),
                        ("ASCII", "name"),
                        ("STATE", "state"),
                        ("JOINING", "joining"),
                        ("ROLE", "role"),
                        ("RECORD", "challenge.name"),
                        ("ITS TEXT", "challenge.value"),
                        ("MISSING SINCE", "record_missing_since"),
                    ],
                )
            }
            Domains::Add { name } => {
                let domain = self.post(&self.at("/domains").await?, json!({ "name": name })).await?;
                let said = |part: &str| domain["challenge"][part].as_str().unwrap_or_default().to_owned();
                let (record, value) = (said("name"), said("value"));
                let next = format!("nitejar domains verify {}", domain["name"].as_str().unwrap_or_default());
                let text =
                    format!("Claimed. Make the TXT record {record} with the text {value}, then: {next}");
                self.shape.done(&text, &domain)
            }
            Domains::Verify { domain } => {
                let path = format!("{}:verify", self.domain(&domain).await?);
                let verified = self.post(&path, json!({})).await?;
                self.shape.done(
                    "Verified. Leave the record there: without it nobody joins by the domain.",
                    &verified,
                )
            }
            Domains::Set { domain, joining, role } => {
                let mut wish = json!({ "joining": joining });
                if let Some(role) = role {
                    wish["role"] = role.into();
                }
                let set = self.api.call(Method::PATCH, &self.domain(&domain).await?, Some(&wish)).await?;
                self.shape.done("Set.", &set)
            }
            Domains::Remove { domain } => self.delete(&self.domain(&domain).await?, "Given up.").await,
        }
    }

    /// A domain's path, by its id or name.
    async fn domain(&self, which: &str) -> Result<String> {
        let list = self.at("/domains").await?;
        if which.starts_with("dom_") {
            return Ok(format!("{list}/{}", part(which)));
        }
        let found = self.get(&list).await?;
        let all = found["domains"].as_array().cloned().unwrap_or_default();
        let named = |d: &&Value| d["name"] == which || d["unicode_name"] == which;
        let id = all.iter().find(named).and_then(|d| d["id"].as_str());
        id.map(|id| format!("{list}/{}", part(id))).ok_or_else(|| {
            let detail = format!("There is no domain {which}. See: nitejar domains list");
            Failure::refused(404, &json!({ "detail": detail }))
        })
    }
}
