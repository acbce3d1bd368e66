//! ONE table of all endpoints. It drives the role matrix, the attacks and the bad input. A new RPC without its row here
//! fails `every_rpc_has_its_row`.

use std::collections::BTreeSet;

use nitejar_common::clock::SystemClock;
use nitejar_common::id;
use nitejar_proto::POLICIES;
use nitejar_proto::policy::MethodPolicy;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

/// Ids to put into a path or body.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    pub(crate) org: String,
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) work_item: String,
    pub(crate) job: String,
    pub(crate) key: String,
    pub(crate) invitation: String,
    pub(crate) integration: String,
    pub(crate) event: String,
    pub(crate) secret: String,
    pub(crate) session: String,
    pub(crate) role: String,
    pub(crate) export: String,
    pub(crate) domain: String,
    pub(crate) grant: String,
}

impl Ids {
    /// Those of a world.
    pub(crate) fn of(w: &World) -> Self {
        Self {
            org: w.org.clone(),
            user: w.member_id.clone(),
            agent: w.agent.clone(),
            work_item: w.work_item.clone(),
            job: w.job.clone(),
            key: w.key.clone(),
            invitation: w.invitation.clone(),
            integration: w.integration.clone(),
            event: w.event.clone(),
            secret: "TOKEN".into(),
            session: id::SessionId::new(&SystemClock).to_string(),
            role: w.role.clone(),
            export: w.export.clone(),
            domain: w.domain.clone(),
            grant: w.grant.clone(),
        }
    }

    /// A path template with these ids in it.
    pub(crate) fn fill(&self, template: &str) -> String {
        template
            .replace("{org_id}", &self.org)
            .replace("{purged_org_id}", &self.org)
            .replace("{user_id}", &self.user)
            .replace("{agent_id}", &self.agent)
            .replace("{work_item_id}", &self.work_item)
            .replace("{job_id}", &self.job)
            .replace("{key_id}", &self.key)
            .replace("{invitation_id}", &self.invitation)
            .replace("{integration_id}", &self.integration)
            .replace("{event_id}", &self.event)
            .replace("{name}", &self.secret)
            .replace("{session_id}", &self.session)
            .replace("{role_id}", &self.role)
            .replace("{export_id}", &self.export)
            .replace("{domain_id}", &self.domain)
            .replace("{grant_id}", &self.grant)
            .replace("{part}", "1")
    }

    /// Well-formed ids of nothing, in an organization that there is.
    pub(crate) fn of_nothing(org: &str) -> Self {
        let c = &SystemClock;
        Self {
            org: org.to_owned(),
            user: id::UserId::new(c).to_string(),
            agent: id::AgentId::new(c).to_string(),
            work_item: id::WorkItemId::new(c).to_string(),
            job: id::JobId::new(c).to_string(),
            key: id::KeyId::new(c).to_string(),
            invitation: id::InvitationId::new(c).to_string(),
            integration: id::IntegrationId::new(c).to_string(),
            event: id::EventId::new(c).to_string(),
            secret: "NOTHING".into(),
            session: id::SessionId::new(c).to_string(),
            role: id::RoleId::new(c).to_string(),
            export: id::ExportId::new(c).to_string(),
            domain: id::DomainId::new(c).to_string(),
            grant: id::GrantId::new(c).to_string(),
        }
    }
}

/// One endpoint: its RPC, and a valid body for it.
pub(crate) struct Endpoint {
    pub(crate) rpc: &'static str,
    pub(crate) body: fn(&Ids) -> Value,
}

macro_rules! endpoints {
    ($($rpc:literal => $body:expr;)*) => {
        /// All of them.
        pub(crate) const ENDPOINTS: &[Endpoint] = &[$(Endpoint { rpc: $rpc, body: $body },)*];
    };
}

fn none(_: &Ids) -> Value {
    Value::Null
}
fn empty(_: &Ids) -> Value {
    json!({})
}

endpoints! {
    "Users.CreateUser" => |_| json!({ "email": "matrix@example.com", "name": "M" });
    "Users.GetUser" => none;
    "Users.CreateUserKey" => |_| json!({ "name": "k" });
    "Users.GetMe" => none;
    "Users.CreateMyKey" => |_| json!({ "name": "k" });
    "Users.ListMyKeys" => none;
    "Users.RevokeMyKey" => none;
    "Users.ExportMe" => none;
    "Users.DeleteMe" => none;
    "Sessions.StartSignIn" => |_| json!({ "email": "matrix@example.com" });
    "Sessions.FinishSignIn" => |_| json!({ "token": "njl_unknown_token" });
    "Sessions.ListSessions" => none;
    "Sessions.RevokeSession" => none;
    "Sessions.SignOut" => empty;
    "Sessions.SignOutEverywhere" => empty;
    "Orgs.CreateOrg" => |_| json!({ "slug": "www", "name": "reserved: never made" });
    "Orgs.ListOrgs" => none;
    "Orgs.GetOrg" => none;
    "Orgs.UpdateOrg" => empty;
    "Orgs.LookupOrg" => none;
    "Orgs.RenameOrg" => |_| json!({ "slug": "www" });
    "Orgs.DeleteOrg" => none;
    "Orgs.RestoreOrg" => empty;
    "Orgs.GetPurgeReceipt" => none;
    "Orgs.ListReceiptKeys" => none;
    "OrgLives.GetOrgLife" => none;
    "OrgLives.CreateOrgForUser" => |_| json!({ "slug": "www", "name": "reserved: never made" });
    "OrgLives.SuspendOrg" => |_| json!({ "reason": "matrix" });
    "OrgLives.ResumeOrg" => empty;
    "OrgLives.SetLegalHold" => |_| json!({ "reason": "matrix" });
    "OrgLives.ReleaseLegalHold" => none;
    "Exports.CreateExport" => empty;
    "Exports.GetExport" => none;
    "Exports.ListExports" => none;
    "Exports.GetExportPart" => none;
    "Exports.DeleteExport" => none;
    "Roles.CreateRole" => |_| json!({ "name": "Matrix", "permissions": ["jobs.read"] });
    "Roles.ListRoles" => none;
    "Roles.GetRole" => none;
    "Roles.UpdateRole" => |_| json!({ "name": "Attacked" });
    "Roles.DeleteRole" => none;
    "Roles.SetMemberRoles" => empty;
    "Roles.ExplainAccess" => none;
    "Members.ListMembers" => none;
    "Members.UpdateMember" => |_| json!({ "role": "viewer" });
    "Members.RemoveMember" => none;
    "Members.LeaveOrg" => empty;
    "Invitations.CreateInvitation" => |_| json!({ "email": "matrix@example.com", "role": "viewer" });
    "Invitations.ListInvitations" => none;
    "Invitations.RevokeInvitation" => none;
    "Invitations.ResendInvitation" => empty;
    "Invitations.ImportInvitations" => |_| json!({ "csv": "email\nnobody" });
    "Invitations.DeclineInvitation" => |_| json!({ "token": "nji_unknown_token" });
    "Ownership.OfferOwnership" => |ids| json!({ "user_id": ids.user });
    "Ownership.GetOwnershipOffer" => none;
    "Ownership.AcceptOwnership" => empty;
    "Ownership.EndOwnershipOffer" => none;
    "Invitations.AcceptInvitation" => |_| json!({ "token": "nji_unknown_token" });
    "Domains.CreateDomain" => |_| json!({ "name": "matrix.example.com" });
    "Domains.ListDomains" => none;
    "Domains.GetDomain" => none;
    "Domains.VerifyDomain" => empty;
    "Domains.UpdateDomain" => |_| json!({ "joining": "automatic" });
    "Domains.DeleteDomain" => none;
    "Domains.ListJoinableOrgs" => none;
    "Domains.JoinOrg" => |ids| json!({ "org_id": ids.org });
    "Support.RequestSupportAccess" => |_| json!({ "reason": "ticket 1: matrix", "duration_minutes": 5 });
    "Support.ListOrgSupportGrants" => none;
    "Support.ApproveBreakGlass" => empty;
    "Support.ListSupportGrants" => none;
    "Support.ApproveSupportAccess" => empty;
    "Support.DenySupportAccess" => empty;
    "Support.RevokeSupportAccess" => empty;
    "Keys.CreateKey" => |_| json!({ "name": "k", "role": "viewer" });
    "Keys.ListKeys" => none;
    "Keys.UpdateKey" => |_| json!({ "name": "attacker's" });
    "Keys.RotateKey" => empty;
    "Keys.RevokeKey" => none;
    "Secrets.SetSecret" => |_| json!({ "value": "attackers-value" });
    "Secrets.ListSecrets" => none;
    "Secrets.ListSecretVersions" => none;
    "Secrets.RestoreSecret" => |_| json!({ "version": 1 });
    "Secrets.RotateDataKey" => empty;
    "Secrets.GetMasterKeyRotation" => none;
    "Secrets.DeleteSecret" => none;
    "Plans.ListPlans" => none;
    "Subscriptions.GetSubscription" => none;
    "Subscriptions.SetPlan" => |_| json!({ "plan": "enterprise" });
    "Usage.GetUsage" => none;
    "Usage.ListUsageEntries" => none;
    "AuditEvents.ListAuditEvents" => none;
    "AuditEvents.GetAuditEvent" => none;
    "AuditEvents.VerifyAuditChain" => none;
    "AuditEvents.ListPlatformAuditEvents" => none;
    "Agents.CreateAgent" => |_| json!({ "handle": "matrix" });
    "Agents.GetAgent" => none;
    "Agents.ListAgents" => none;
    "Agents.UpdateAgent" => |_| json!({ "name": "attacker's" });
    "Agents.PauseAgent" => empty;
    "Agents.ResumeAgent" => empty;
    "Agents.DeleteAgent" => none;
    "Agents.ListSecretAgents" => none;
    "Agents.ListSprites" => none;
    "WorkItems.CreateWorkItem" => |ids| json!({ "agent_id": ids.agent, "title": "attacker's" });
    "WorkItems.GetWorkItem" => none;
    "WorkItems.ListWorkItems" => none;
    "Jobs.GetJob" => none;
    "Jobs.ListJobs" => none;
    "Jobs.CancelJob" => empty;
    "Jobs.RetryJob" => empty;
    "Jobs.StreamJobLogs" => none;
    "Integrations.StartGithubInstall" => empty;
    "Integrations.FinishGithubInstall" => none;
    "Integrations.ListIntegrations" => none;
    "Integrations.DeleteIntegration" => none;
    "Runner.ClaimJobs" => |_| json!({ "wait_seconds": 0, "max_jobs": 1 });
    "Runner.Heartbeat" => |_| json!({ "lease_epoch": 99 });
    "Runner.AppendLogs" => |_| json!({ "lease_epoch": 99, "first_line": 1, "lines": [{ "stream": "stdout", "text": "attacker's" }] });
    "Runner.CompleteJob" => |_| json!({ "lease_epoch": 99, "outcome": "succeeded" });
}

impl Endpoint {
    pub(crate) fn policy(&self) -> &'static MethodPolicy {
        let found = POLICIES.values().find(|p| short(p) == self.rpc);
        found.unwrap_or_else(|| panic!("the table has {}, which is no RPC", self.rpc))
    }

    pub(crate) fn method(&self) -> Method {
        self.policy().http.as_ref().unwrap().verb.parse().unwrap()
    }

    /// The path with these ids in it, and whatever query it must have.
    pub(crate) fn path(&self, ids: &Ids) -> String {
        let path = ids.fill(&self.policy().http.as_ref().unwrap().template);
        assert!(!path.contains('{'), "{}: teach Ids the variable in {path}", self.rpc);
        if self.rpc == "Integrations.FinishGithubInstall" {
            return format!("{path}?installation_id=1&code=c&state=s");
        }
        match self.rpc {
            "Users.DeleteMe" => format!("{path}?email=somebody-else@example.com"),
            "Orgs.LookupOrg" => format!("{path}?slug=nobodys"),
            "Roles.ExplainAccess" => format!("{path}?actor_id={}&permission=jobs.run", ids.user),
            "Orgs.DeleteOrg" => format!("{path}?slug=not-its-slug"),
            _ => path,
        }
    }

    pub(crate) fn body(&self, ids: &Ids) -> Option<Value> {
        Some((self.body)(ids)).filter(|b| !b.is_null())
    }
}

/// `Orgs.CreateOrg`
pub(crate) fn short(policy: &MethodPolicy) -> String {
    format!("{}.{}", policy.service.rsplit('.').next().unwrap(), policy.method)
}

#[test]
fn every_rpc_has_its_row() {
    let table: BTreeSet<String> = ENDPOINTS.iter().map(|e| e.rpc.to_owned()).collect();
    let rpcs: BTreeSet<String> = POLICIES.values().filter(|p| p.http.is_some()).map(short).collect();
    assert_eq!(table, rpcs, "crates/dev/tests/it/endpoints.rs has one row for each RPC with a route");
    assert_eq!(ENDPOINTS.len(), table.len(), "a row stands twice");
}
