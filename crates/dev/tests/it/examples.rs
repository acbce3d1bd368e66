//! Every example of the API reference, executed; every answer held against the document.

use std::collections::BTreeMap;

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_gateway::openapi::examples;
use reqwest::Method;
use serde_json::{Value, json};

use crate::endpoints::Ids;
use crate::world::{World, finished};

/// Ids and a body with which an operation succeeds in this world, where those at hand do not.
pub(crate) async fn prepare(stack: &TestStack, world: &World, ids: &mut Ids, rpc: &str) -> Option<Value> {
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", world.org);
    let job = async |title: &str| {
        let item = json!({ "agent_id": world.agent, "title": title });
        let item = world.owner.post(&at("/work-items"), &item).await.unwrap();
        item["job_ids"][0].as_str().unwrap().to_owned()
    };
    let agent = at(&format!("/agents/{}", world.agent));
    match rpc {
        "Ownership.GetOwnershipOffer" | "Ownership.EndOwnershipOffer" => {
            // Another example may have removed the world's own member.
            let operator = stack.operator().unwrap();
            let (_, heir) = crate::world::join(&operator, &world.owner, &world.org, "viewer").await;
            world.owner.post(&at("/ownership-offer"), &json!({ "user_id": heir })).await.unwrap();
            None
        }
        "Invitations.AcceptInvitation" | "Invitations.DeclineInvitation" => {
            let (other, _) = person(&stack.operator().unwrap(), "other").await.unwrap();
            let other_org = organization(&other).await.unwrap();
            let email = text(&world.owner.get("/v1/me").await.unwrap(), "email");
            let wish = json!({ "email": email, "role": "viewer" });
            let invited = other.post(&format!("/v1/orgs/{other_org}/invitations"), &wish).await.unwrap();
            Some(json!({ "token": text(&invited, "token") }))
        }
        "Jobs.CancelJob" | "Jobs.RetryJob" => {
            // Paused, so that it waits.
            world.owner.post(&format!("{agent}:pause"), &json!({})).await.unwrap();
            ids.job = job("to be cancelled").await;
            if rpc == "Jobs.RetryJob" {
                world.owner.post(&at(&format!("/jobs/{}:cancel", ids.job)), &json!({})).await.unwrap();
                finished(&world.owner, &world.org, &ids.job).await;
            }
            None
        }
        "Runner.Heartbeat" | "Runner.AppendLogs" | "Runner.CompleteJob" => {
            world.owner.post(&format!("{agent}:resume"), &json!({})).await.unwrap();
            world.owner.patch(&agent, &json!({ "config": { "command": "sleep 300" } })).await.unwrap();
            // The agent has one place: what is there goes first.
            for open in world.owner.all(&at("/jobs"), "jobs").await.unwrap() {
                let cancel = at(&format!("/jobs/{}:cancel", text(&open, "id")));
                world.owner.call(Method::POST, &cancel, Some(&json!({}))).await.unwrap();
            }
            ids.job = job("runs for long").await;
            let running = |v: &Value| v["state"] == "running";
            world.owner.until(&at(&format!("/jobs/{}", ids.job)), 30, "the job", running).await.unwrap();
            None
        }
        "Support.ApproveBreakGlass" | "Support.ApproveSupportAccess" | "Support.DenySupportAccess" => {
            ids.grant = crate::support::requested(stack, &world.owner, &world.org).await;
            None
        }
        "Support.RevokeSupportAccess" => {
            ids.grant = crate::support::requested(stack, &world.owner, &world.org).await;
            let approve = at(&format!("/support-grants/{}:approve", ids.grant));
            world.owner.post(&approve, &json!({})).await.unwrap();
            None
        }
        "Secrets.RestoreSecret" => {
            // The example's name is not the world's until something has set it.
            world.owner.put(&at("/secrets/TOKEN"), &json!({ "value": "v" })).await.unwrap();
            None
        }
        "Users.RevokeMyKey" => {
            let me = text(&world.owner.get("/v1/me").await.unwrap(), "id");
            let path = format!("/v1/operator/users/{me}/keys");
            let key = json!({ "name": "to be revoked" });
            let key = stack.operator().unwrap().post(&path, &key).await.unwrap();
            ids.key = text(&key["key"], "id");
            None
        }
        _ => None,
    }
}

/// Examples' ids → the world's.
fn replaced(example: &str, ids: &Ids) -> String {
    examples::IDS.iter().fold(example.to_owned(), |text, (name, id)| text.replace(id, &ids.fill(name)))
}

fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    jsonschema::draft202012::options().should_validate_formats(true).build(&whole).unwrap()
}

/// The answer is one that the document describes.
fn check(document: &Value, operation: &Value, answer: &Answer) {
    let id = text(operation, "operationId");
    let status = answer.status.to_string();
    let described = &operation["responses"][&status];
    assert!(described.is_object(), "{id} answered {status}, which is not described: {}", answer.body);
    let kind = answer.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
    let schema = &described["content"][kind]["schema"];
    assert!(schema.is_object(), "{id} answered {kind}: {}", described["content"]);
    let errors: Vec<String> = validator(document, schema)
        .iter_errors(&answer.body)
        .map(|e| format!("{e} at {}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{id}: {errors:?} {}", answer.body);
    for name in described["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
        let optional = matches!(name.as_str(), "Idempotency-Replayed" | "Retry-After");
        assert!(optional || answer.headers.contains_key(name.to_lowercase()), "{id}: no {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_works_and_is_answered_as_described() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let document = operator.get("/openapi.json").await.unwrap();
    let world = World::new(&stack).await;
    let clients: BTreeMap<&str, Client> = BTreeMap::from([
        ("public", operator.with_key("")),
        ("user", world.owner.clone()),
        ("tenant", world.owner.clone()),
        ("operator", operator.clone()),
        ("runner", operator.with_key(&world.runner)),
    ]);
    let mut operations: Vec<(String, Value)> = Vec::new();
    for (path, verbs) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/v1/"));
        operations
            .extend(verbs.as_object().unwrap().iter().map(|(verb, o)| (verb.to_uppercase(), o.clone())));
    }
    // What ends things comes last, and who leaves comes at the very end.
    operations.sort_by_key(|(verb, o)| (text(o, "operationId") == "Members.LeaveOrg", verb == "DELETE"));
    let mut tried = 0;
    for (verb, operation) in &operations {
        let id = text(operation, "operationId");
        let mut ids = Ids::of(&world);
        let own = prepare(&stack, &world, &mut ids, &id).await;
        let example = &operation["x-example"];
        let mut path = replaced(example["path"].as_str().unwrap(), &ids);
        if path.contains("slug=acme") {
            let org = world.owner.get(&format!("/v1/orgs/{}", world.org)).await.unwrap();
            path = path.replace("slug=acme", &format!("slug={}", text(&org, "slug")));
        }
        let shown =
            example.get("body").map(|body| serde_json::from_str(&replaced(&body.to_string(), &ids)).unwrap());
        let body = own.or(shown);
        // These need a browser's cookies and what a mail or GitHub says: `sessions` and `webhooks` execute them.
        let elsewhere = match id.as_str() {
            "Sessions.FinishSignIn" | "Integrations.FinishGithubInstall" | "Sessions.SignOut" => 409,
            "Sessions.RevokeSession" => 404,
            "Orgs.GetPurgeReceipt" => 404,      // `lives` gets one.
            "Ownership.AcceptOwnership" => 404, // `members` makes the offer.
            "Domains.VerifyDomain" => 409,      // `domains` asks a name server that has the record.
            "Domains.JoinOrg" => 404,           // `domains` joins.
            "Users.DeleteMe" => 400,            // Somebody else's address.
            "Users.CreateMyKey" => 403,
            _ => 200,
        };
        let client = match id.as_str() {
            "Members.LeaveOrg" => {
                let (leaver, _) = crate::world::join(&operator, &world.owner, &world.org, "viewer").await;
                leaver
            }
            _ => clients[operation["x-scope"].as_str().unwrap()].clone(),
        };
        let answer = client.call(verb.parse::<Method>().unwrap(), &path, body.as_ref()).await.unwrap();
        assert_eq!(answer.status, elsewhere, "{id}: {}", answer.body);
        check(&document, operation, &answer);
        // The others need it alive.
        let back = match id.as_str() {
            "OrgLives.SuspendOrg" => Some((&operator, format!("/v1/operator/orgs/{}:resume", world.org))),
            "Orgs.DeleteOrg" => Some((&world.owner, format!("/v1/orgs/{}:restore", world.org))),
            _ => None,
        };
        if let Some((client, path)) = back {
            client.post(&path, &json!({})).await.unwrap();
            crate::lives::works(&world.owner, &world.org).await;
        }
        // The body of the reference is what the document calls valid.
        if let Some(shown) = example.get("body") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            assert!(validator(&document, schema).is_valid(shown), "{id}: {shown}");
        }
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
    // The judge can say no.
    let me = &document["paths"]["/v1/me"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert!(!validator(&document, me).is_valid(&json!({ "id": 1 })));
    stack.stop().await.unwrap();
}
