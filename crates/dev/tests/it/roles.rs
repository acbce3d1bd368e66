//! Role × RPC, against the running stack, as a file to read: `roles.golden`.

use std::fmt::Write as _;

use nitejar_common::permission::Role;
use nitejar_dev::client::Client;
use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_proto::policy::Scope;
use serde_json::json;

use crate::endpoints::{ENDPOINTS, Ids};
use crate::world::{World, join};

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_of_roles_and_rpcs_is_the_golden_file() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let mut columns: Vec<(&str, Client)> = Vec::new();
    for role in Role::ALL.into_iter().rev().filter(|r| *r != Role::Owner) {
        columns.push((role.as_str(), join(&operator, &owner, &org, role.as_str()).await.0));
    }
    let key =
        owner.post(&format!("/v1/orgs/{org}/keys"), &json!({ "name": "k", "role": "admin" })).await.unwrap();
    let key = operator.with_key(key["secret"].as_str().unwrap());
    let scoped = json!({ "name": "k", "role": "admin", "scopes": ["jobs.read"] });
    let scoped = owner.post(&format!("/v1/orgs/{org}/keys"), &scoped).await.unwrap();
    let scoped = operator.with_key(scoped["secret"].as_str().unwrap());
    let (stranger, _) = person(&operator, "stranger").await.unwrap();
    let world = World::new(&stack).await;
    let runner = operator.with_key(&world.runner);
    // The owner last: what an owner may do could end the others' membership.
    columns.extend([
        ("key:admin", key),
        ("key:jobs.read", scoped),
        ("stranger", stranger),
        ("runner", runner),
    ]);
    columns.extend([("operator", operator.clone()), ("nobody", operator.with_key("")), ("owner", owner)]);

    let mut golden = String::from(
        "# Who may call what. + allowed, - refused (403), 0 there is nothing (404), ! no credential (401)\n",
    );
    write!(golden, "{:<40}", "").unwrap();
    columns.iter().for_each(|(name, _)| write!(golden, " {name}").unwrap());
    golden.push('\n');
    // Ids of nothing: whoever is allowed finds nothing, and nothing is changed.
    let ids = Ids::of_nothing(&org);
    for endpoint in ENDPOINTS {
        write!(golden, "{:<40}", endpoint.rpc).unwrap();
        for (name, client) in &columns {
            let body = endpoint.body(&ids);
            let path = endpoint.path(&ids);
            // A leaving owner or member would be gone for the rest.
            if endpoint.rpc == "Members.LeaveOrg"
                && !matches!(*name, "stranger" | "operator" | "nobody" | "runner")
            {
                let may =
                    client.call(reqwest::Method::POST, &path, Some(&json!({ "unknown": 1 }))).await.unwrap();
                let mark = if may.status == 400 { "+" } else { "-" };
                write!(golden, " {mark:<width$}", width = name.len()).unwrap();
                continue;
            }
            let answer = client.call(endpoint.method(), &path, body.as_ref()).await.unwrap();
            let nothing =
                answer.body["detail"].as_str().is_some_and(|d| d.starts_with("There is no organization"));
            let mark = match answer.status {
                401 => "!",
                403 => "-",
                404 if nothing => "0",
                500..=599 => panic!("{} as {name}: {} {}", endpoint.rpc, answer.status, answer.body),
                _ => "+",
            };
            let policy = endpoint.policy();
            // Independently of the golden file: the catalogue decides for the fixed roles.
            if let (Scope::Tenant, Some(role)) = (policy.scope, Role::parse(name)) {
                let expected = if role.allows(policy.permission.as_deref().unwrap()) { "+" } else { "-" };
                assert_eq!(mark, expected, "{} as {name}: {}", endpoint.rpc, answer.body);
                if mark == "-" {
                    assert_eq!(answer.body["permission"], policy.permission.as_deref().unwrap());
                }
            }
            write!(golden, " {mark:<width$}", width = name.len()).unwrap();
        }
        golden.push('\n');
    }
    let golden: String = golden.lines().map(|l| format!("{}\n", l.trim_end())).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/roles.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &golden).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        golden, kept,
        "roles.golden is old: run with UPDATE_GOLDEN=1, look at the difference, commit it"
    );
    stack.stop().await.unwrap();
}
