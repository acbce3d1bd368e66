//! Access of our support to the organization.

use serde_json::json;

use super::{ALL, Here};
use crate::api::part;
use crate::args::Support;
use crate::failure::Result;

impl Here {
    pub(super) async fn support(&self, support: Support) -> Result<()> {
        let list = self.at("/support-grants").await?;
        let (grant, verb, done) = match support {
            Support::List => {
                return self.shape.list(
                    &self.api.list(&list, "grants", ALL).await?,
                    &[
                        ("ID", "id"),
                        ("STATE", "state"),
                        ("WHO", "operator"),
                        ("MINUTES", "duration_minutes"),
                        ("UNTIL", "expires_at"),
                        ("WHY", "reason"),
                    ],
                );
            }
            Support::Approve { grant } => (grant, "approve", "Approved: they can read from now on."),
            Support::Deny { grant } => (grant, "deny", "Denied."),
            Support::Revoke { grant } => (grant, "revoke", "Revoked: they can't read any more."),
        };
        let answer = self.post(&format!("{list}/{}:{verb}", part(&grant)), json!({})).await?;
        self.shape.done(done, &answer)
    }
}
