//! Roles, and why somebody may do something.

use serde_json::{Value, json};

use super::Here;
use crate::api::part;
use crate::args::Roles;
use crate::failure::Result;

impl Here {
    pub(super) async fn roles(&self, roles: Roles) -> Result<()> {
        match roles {
            Roles::List => {
                let page = self.get(&self.at("/roles?page_size=100").await?).await?;
                let mut list: Vec<Value> = page["fixed_roles"].as_array().cloned().unwrap_or_default();
                list.extend(page["roles"].as_array().cloned().unwrap_or_default());
                for role in &mut list {
                    let names = role["permissions"].as_array().cloned().unwrap_or_default();
                    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                    role["allows"] = names.join(" ").into();
                }
                self.shape.list(&list, &[("NAME", "name"), ("ID", "id"), ("ALLOWS", "allows")])
            }
            Roles::Create { name, permissions } => {
                let wish = json!({ "name": name, "permissions": permissions });
                let role = self.post(&self.at("/roles").await?, wish).await?;
                let id = role["id"].as_str().unwrap_or_default();
                self.shape
                    .done(&format!("Made {id}. Give it: nitejar members set-custom-roles USER {id}"), &role)
            }
            Roles::Delete { role } => {
                self.delete(&self.at(&format!("/roles/{}", part(&role))).await?, "Deleted.").await
            }
        }
    }

    pub(super) async fn explain(&self, actor: &str, permission: &str) -> Result<()> {
        let query = format!("/access:explain?actor_id={}&permission={}", part(actor), part(permission));
        let verdict = self.get(&self.at(&query).await?).await?;
        let may = if verdict["allowed"] == true { "They may." } else { "They may not." };
        self.shape.done(&format!("{may} {}", verdict["reason"].as_str().unwrap_or_default()), &verdict)
    }
}
