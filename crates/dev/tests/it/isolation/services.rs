//! The services themselves, as somebody in our network reaches them: every RPC that there is, over gRPC, without the gateway.
//! A service believes no request about who asks or whose organization it is: only a token that the right one signed for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::ctx::{Actor, ActorKind};
use nitejar_common::id::OrgId;
use nitejar_common::permission::Role;
use nitejar_common::secret::Secret;
use nitejar_common::token::{Signer, generate_key};
use nitejar_common::{RequestCtx, id};
use nitejar_dev::test_stack::TestStack;
use nitejar_gateway::transcode::codec::RawCodec;
use nitejar_proto::policy::{MethodPolicy, Scope};
use nitejar_proto::{POLICIES, POOL};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use super::attackers::Attackers;
use super::report::Report;
use super::victim::Victim;
use crate::digests::SERVICES;
use crate::endpoints::{ENDPOINTS, Ids, short};

/// Who may call an internal RPC, and what it would be asked about the victim.
fn internals(victim: &Victim) -> Vec<(&'static str, &'static str, Value)> {
    let w = &victim.world;
    let org = json!({ "org_id": w.org });
    let sha256 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(nitejar_common::key::sha256(text))
    };
    let jobs = json!({ "meter": "jobs", "keys": [w.job], "ttl_seconds": 60 });
    let event = json!({
        "id": w.event, "org_id": w.org, "action": "forged", "actor_kind": "user", "occurred_at": "2026-01-01T00:00:00Z",
    });
    vec![
        ("Tenants.ProvisionTenant", "tenancy", org.clone()),
        ("Tenants.SetTenantState", "tenancy", json!({ "org_id": w.org, "active": false, "version": "999" })),
        ("Tenants.ExportTenant", "tenancy", org.clone()),
        ("Tenants.PurgeTenant", "tenancy", org),
        (
            "TenancyInternal.ResolveCredential",
            "gateway",
            json!({ "key_sha256": sha256(&w.key_secret), "org_id": w.org }),
        ),
        ("TenancyInternal.RotateSession", "gateway", json!({ "sha256": sha256("x") })),
        ("TenancyInternal.WatchCredentials", "gateway", json!({})),
        ("TenancyInternal.ShareRates", "gateway", json!({ "counts": [] })),
        (
            "TenancyInternal.ReportLeaks",
            "gateway",
            json!({ "key_identifier": "k", "signature": "s", "body": sha256("x") }),
        ),
        ("TenancyInternal.OpenSecrets", "sprites", json!({ "names": ["TOKEN", "VICTIMS"], "job_id": w.job })),
        ("TenancyInternal.GetJobDefaults", "sprites", json!({})),
        ("SpritesInternal.ResolveRunner", "gateway", json!({ "token_sha256": sha256(&w.runner) })),
        (
            "SpritesInternal.ReceiveGithubWebhook",
            "gateway",
            json!({ "event": "installation", "delivery_id": "d", "signature": "sha256=0", "body": sha256("x") }),
        ),
        ("SpritesInternal.QuotaChanged", "billing", json!({})),
        ("BillingInternal.Reserve", "", jobs.clone()),
        ("BillingInternal.Commit", "", json!({ "meter": "jobs", "keys": [w.job] })),
        ("BillingInternal.Release", "", json!({ "meter": "agents", "keys": [w.agent] })),
        ("BillingInternal.GetEntitlements", "", json!({})),
        ("BillingInternal.LeaseApiCalls", "", json!({ "lease_id": "", "spent": 5, "settle_only": true })),
        ("AuditInternal.RecordEvents", "", json!({ "events": [event] })),
    ]
}

/// For which audience → `Bearer …`.
type Mint = Box<dyn Fn(&str) -> http::HeaderValue>;

/// What a caller shows.
struct Caller {
    name: &'static str,
    /// None: nothing at all.
    token: Option<Mint>,
    /// Whether the service may take it for what it says.
    genuine: bool,
}

fn signers(stack: &TestStack) -> BTreeMap<&'static str, Arc<Signer>> {
    let signer = |name: &'static str| {
        let key = Secret::new(&stack.keys.tokens[name].0);
        (name, Signer::new(name, &key, system()).unwrap())
    };
    ["gateway", "tenancy", "sprites", "billing", "audit"].map(signer).into()
}

fn person(id: &str, org: Option<&str>, kind: ActorKind) -> RequestCtx {
    let service = RequestCtx::service("gateway", &SystemClock);
    RequestCtx {
        tenant: org.map(|org| org.parse::<OrgId>().unwrap()),
        actor: Actor { kind, id: id.to_owned(), name: String::new() },
        role: Some(Role::Owner),
        ..service
    }
}

fn callers(stack: &TestStack, victim_owner: &str, victim: &Victim, attackers: &Attackers) -> Vec<Caller> {
    let signers = signers(stack);
    let own = attackers.world.org.as_str();
    let minted = |by: &str, ctx: RequestCtx| -> Option<Mint> {
        let signer = Arc::clone(&signers[by]);
        Some(Box::new(move |audience: &str| signer.mint(&ctx, audience)))
    };
    let theirs = || person(victim_owner, Some(&victim.world.org), ActorKind::User);
    let (gateway, ctx) = (Arc::clone(&signers["gateway"]), theirs());
    // Good in all but for whom it is.
    let elsewhere: Mint = Box::new(move |audience: &str| {
        gateway.mint(&ctx, if audience == "audit" { "billing" } else { "audit" })
    });
    let (unknown, ctx) = (Signer::new("gateway", &generate_key().0, system()).unwrap(), theirs());
    let unknown: Mint = Box::new(move |audience: &str| unknown.mint(&ctx, audience));
    let runner = id::SpriteId::new(&SystemClock).to_string();
    let own = |id: &str, kind| minted("gateway", person(id, Some(own), kind));
    let service = RequestCtx::service("tenancy", &SystemClock);
    let caller = |name, token, genuine| Caller { name, token, genuine };
    vec![
        caller("no token", None, false),
        caller("a token for another service", Some(elsewhere), false),
        caller("a token signed by nobody", Some(unknown), false),
        caller("a service that speaks for the victim's owner", minted("sprites", theirs()), false),
        caller("a gateway that speaks for a service", minted("gateway", service), false),
        caller("token: owner", own(&attackers.owner_id, ActorKind::User), true),
        caller("token: key", own(&attackers.world.key, ActorKind::ApiKey), true),
        caller("token: runner", own(&runner, ActorKind::Runner), true),
    ]
}

struct Direct {
    channels: BTreeMap<&'static str, Channel>,
}

impl Direct {
    /// The status of a call, and what it answered: a whole stream's messages, up to some.
    async fn call(
        &self,
        service: &str,
        policy: &MethodPolicy,
        message: &[u8],
        token: Option<http::HeaderValue>,
    ) -> (Code, Vec<u8>) {
        let mut client = tonic::client::Grpc::new(self.channels[service].clone());
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(Bytes::copy_from_slice(message));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.to_str().unwrap().parse().unwrap());
        }
        let path = policy.path.parse().unwrap();
        let answered = async {
            let mut stream = client.server_streaming(request, path, RawCodec).await?.into_inner();
            let mut all = Vec::new();
            while let Some(message) = stream.message().await? {
                all.extend_from_slice(&message);
            }
            Ok::<_, tonic::Status>(all)
        };
        match tokio::time::timeout(std::time::Duration::from_secs(10), answered).await {
            Ok(Ok(all)) => (Code::Ok, all),
            Ok(Err(status)) => (status.code(), status.message().as_bytes().to_vec()),
            // It would stay open: it was granted.
            Err(_) => (Code::Ok, Vec::new()),
        }
    }
}

/// Who serves it. What is common to all is served by those whom tenancy tells what becomes of an organization.
fn targets(policy: &'static MethodPolicy) -> Vec<&'static str> {
    match policy.upstream() {
        "common" => SERVICES.into_iter().filter(|service| *service != "tenancy").collect(),
        service => vec![service],
    }
}

fn encoded(policy: &MethodPolicy, fields: &Value) -> Vec<u8> {
    let service = POOL.get_service_by_name(&policy.service).unwrap();
    let input = service.methods().find(|m| m.name() == policy.method).unwrap().input();
    let message = DynamicMessage::deserialize(input, fields);
    message.unwrap_or_else(|e| panic!("{}: {e}", short(policy))).encode_to_vec()
}

/// A route's request as a message: body, path and query, with the victim's organization in it.
fn routed(policy: &MethodPolicy, ids: &Ids) -> Value {
    let rpc = short(policy);
    let endpoint = ENDPOINTS.iter().find(|e| e.rpc == rpc).unwrap();
    let mut fields = endpoint.body(ids).unwrap_or_else(|| json!({}));
    let template = &policy.http.as_ref().unwrap().template;
    for name in template.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        fields[name] = match name {
            "part" => json!(1),
            _ => json!(ids.fill(&format!("{{{name}}}"))),
        };
    }
    if let Some((_, query)) = endpoint.path(ids).split_once('?') {
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            fields[name] = json!(value);
        }
    }
    fields
}

/// Whether a text stands in what was answered.
fn shows(answer: &[u8], question: &[u8], victim: &Victim) -> bool {
    let (answer, question) = (String::from_utf8_lossy(answer), String::from_utf8_lossy(question));
    let secret = answer.contains("victims-secret-value") || answer.contains("victims-other-value");
    secret
        || victim
            .shown_in(&Value::String(answer.into_owned()), &format!("{question} {}", victim.ids()))
            .is_some()
}

pub(super) async fn every_rpc(
    stack: &TestStack,
    victim: &mut Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    let owner = victim.world.owner.get("/v1/me").await.unwrap();
    let owner = nitejar_dev::client::text(&owner, "id");
    let callers = callers(stack, &owner, victim, attackers);
    let mut channels = BTreeMap::new();
    for service in SERVICES {
        let to = format!("http://{}", stack.places.main[service]);
        channels.insert(service, Channel::from_shared(to).unwrap().connect_lazy());
    }
    let direct = Direct { channels };
    let internals = internals(victim);
    let ids = Ids { session: victim.session.clone(), ..Ids::of(&victim.world) };
    let mut policies: Vec<&'static MethodPolicy> = POLICIES.values().collect();
    policies.sort_by_key(|policy| short(policy));
    for policy in policies {
        let rpc = short(policy);
        let (only, fields) = match policy.scope {
            Scope::Internal => {
                let found = internals.iter().find(|(name, _, _)| *name == rpc);
                let (_, only, fields) =
                    found.unwrap_or_else(|| panic!("isolation/services.rs has no request for {rpc}"));
                (*only, fields.clone())
            }
            _ => ("", routed(policy, &ids)),
        };
        let message = encoded(policy, &fields);
        // Of an RPC of an organization the organization is the token's, whatever the request says.
        let in_request = fields.to_string();
        let its_own = policy.scope != Scope::Tenant && in_request.contains(&victim.world.org);
        let named = rpc != "Roles.ExplainAccess" && (its_own || victim.named_in(&in_request));
        for service in targets(policy) {
            for caller in &callers {
                // The owner would leave their organization, or close it.
                if caller.genuine
                    && matches!(
                        rpc.as_str(),
                        "Members.LeaveOrg" | "Orgs.DeleteOrg" | "Sessions.SignOutEverywhere"
                    )
                {
                    continue;
                }
                let token = caller.token.as_ref().map(|mint| mint(service));
                let (code, answer) = direct.call(service, policy, &message, token).await;
                let shown = shows(&answer, &message, victim);
                let held = !shown && allowed(policy, caller, code, named);
                let how = format!("{} itself, about the victim", service);
                report.row(
                    "The services themselves",
                    rpc.clone(),
                    caller.name,
                    how,
                    held,
                    format!("{code:?}"),
                );
            }
        }
        if policy.scope == Scope::Internal {
            other_services(stack, &direct, policy, only, &message, victim, attackers, report).await;
        }
        if policy.audit.is_some() || policy.scope == Scope::Internal {
            victim.ask(rpc.as_str(), report).await;
        }
    }
}

/// A caller whom the service can't believe is refused at once. One whom it can acts in their own organization, whatever the
/// request says: what is the victim's is not there, and what is for others is refused.
fn allowed(policy: &MethodPolicy, caller: &Caller, code: Code, named: bool) -> bool {
    if !caller.genuine {
        return code == Code::Unauthenticated;
    }
    let theirs = match policy.scope {
        Scope::Internal | Scope::Operator => false,
        Scope::User => caller.name == "token: owner",
        Scope::Runner => caller.name == "token: runner",
        Scope::Tenant => caller.name != "token: runner",
        Scope::Public => true,
    };
    match (theirs, code) {
        (false, code) => matches!(code, Code::Unauthenticated | Code::PermissionDenied),
        (true, Code::Ok) => !named,
        (true, code) => !matches!(code, Code::Internal | Code::Unknown),
    }
}

/// Services that were taken over: those that the RPC is not for, and one that it is for, bound to the attackers' organization.
#[expect(clippy::too_many_arguments, reason = "all of one attack")]
async fn other_services(
    stack: &TestStack,
    direct: &Direct,
    policy: &'static MethodPolicy,
    only: &str,
    message: &[u8],
    victim: &Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    let rpc = short(policy);
    let own: OrgId = attackers.world.org.parse().unwrap();
    for (name, signer) in signers(stack) {
        let entitled = only.is_empty() || only == name;
        // Tenancy decides about organizations' lives, whichever it names, and the gateway about credentials: that is their work.
        if entitled && (policy.upstream() == "common" || only == "gateway") {
            continue;
        }
        for service in targets(policy) {
            let ctx = RequestCtx::service(name, &SystemClock).for_tenant(own.clone());
            let (code, answer) =
                direct.call(service, policy, message, Some(signer.mint(&ctx, service))).await;
            let broke = matches!(code, Code::Internal | Code::Unknown);
            let held = if entitled { !broke } else { code == Code::PermissionDenied };
            let held = held && !shows(&answer, message, victim);
            let how = match entitled {
                true => format!("{service} itself, bound to another organization, with the victim's ids"),
                false => format!("{service} itself, where it is not for this service"),
            };
            report.row(
                "The services themselves",
                rpc.clone(),
                format!("service: {name}"),
                how,
                held,
                format!("{code:?}"),
            );
        }
    }
}
