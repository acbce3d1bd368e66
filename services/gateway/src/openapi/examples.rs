//! One example of each operation. The tests execute every one of them, with their own ids in place of these, and hold the
//! answer against the document.

use serde_json::{Value, json};

/// Ids in examples: prefix → id.
pub const IDS: &[(&str, &str)] = &[
    ("{org_id}", "org_01jd8z4v6pe2rb8m3q5x7t9w1k"),
    ("{purged_org_id}", "org_01jd8z4v6pe2rb8m3q5x7t9w1k"),
    ("{user_id}", "user_01jd8z4v6qf0ss2n4r6y8v0x2m"),
    ("{agent_id}", "agent_01jd8z4v6re1tt3p5s7z9w1y3n"),
    ("{work_item_id}", "work_01jd8z4v6sf2vv4q6t80ax2z4p"),
    ("{job_id}", "job_01jd8z4v6te3ww5r7v91by305q"),
    ("{key_id}", "key_01jd8z4v6vf4xx6s8wa2cz416r"),
    ("{invitation_id}", "inv_01jd8z4v6we5yy7t9xb3d0527s"),
    ("{integration_id}", "intg_01jd8z4v6xf6zz8vayc4e1638t"),
    ("{event_id}", "evt_01jd8z4v6ye709awbzd5f2749v"),
    ("{session_id}", "session_01jd8z4v6zf81abxc0e6g385aw"),
    ("{role_id}", "role_01jd8z4v70g9b2bxd1f7h496bx"),
    ("{export_id}", "exp_01jd8z4v71hac3cye2g8j5a7cy"),
    ("{domain_id}", "dom_01jd8z4v72jbd4dzf3h9k6b8dz"),
    ("{grant_id}", "grant_01jd8z4v73kce5e0g4jam7c9e0"),
    ("{part}", "1"),
    ("{name}", "API_TOKEN"),
];

/// A text with these ids in it.
pub(super) fn filled(template: &str) -> String {
    IDS.iter().fold(template.to_owned(), |text, (name, id)| text.replace(name, id))
}

/// What follows the path.
pub(super) fn query(rpc: &str) -> &'static str {
    match rpc {
        "Integrations.FinishGithubInstall" => "?installation_id=41234567&code=4f3c9a&state=7d1e",
        "Members.ListMembers" | "AuditEvents.ListAuditEvents" | "Jobs.ListJobs" => "?page_size=20",
        "Usage.ListUsageEntries" => "?meter=jobs",
        "Roles.ExplainAccess" => "?actor_id={user_id}&permission=jobs.run",
        "Users.DeleteMe" => "?email=grace@example.com",
        "Orgs.LookupOrg" | "Orgs.DeleteOrg" => "?slug=acme",
        _ => "",
    }
}

/// The body; none where there is none.
pub(super) fn body(rpc: &str) -> Option<Value> {
    let text = match rpc {
        "Users.CreateUser" => json!({"email": "grace@example.com", "name": "Grace Hopper"}),
        "Users.CreateUserKey" | "Users.CreateMyKey" => json!({"name": "laptop"}),
        "Sessions.StartSignIn" => json!({"email": "grace@example.com"}),
        "Sessions.FinishSignIn" => json!({"token": "njl_Qm9vdHN0cmFwIHRoZSBzeXN0ZW0sIHRoZW4gcmVzdC4f3a91c"}),
        "Orgs.CreateOrg" => json!({"slug": "acme", "name": "Acme", "external_id": "crm-17"}),
        "Orgs.UpdateOrg" => json!({
            "name": "Acme Works", "settings": {"timezone": "Europe/Berlin"}, "metadata": {"tier": "gold"}, "external_id": "crm-17",
        }),
        "Orgs.RenameOrg" => json!({"slug": "acme-works"}),
        "OrgLives.CreateOrgForUser" => {
            json!({"slug": "acme-labs", "name": "Acme Labs", "external_id": "crm-18"})
        }
        "OrgLives.SuspendOrg" => json!({"reason": "Three invoices are overdue."}),
        "OrgLives.SetLegalHold" => json!({"reason": "Case 2026-114"}),
        "Roles.CreateRole" => json!({
            "name": "Release engineers", "description": "May also read the audit log.", "permissions": ["jobs.run", "audit.read"],
        }),
        "Roles.UpdateRole" => json!({"permissions": ["audit.read", "jobs.cancel", "jobs.run"]}),
        "Roles.SetMemberRoles" => json!({"role_ids": ["{role_id}"]}),
        "Members.UpdateMember" => json!({"role": "admin"}),
        "Invitations.CreateInvitation" => json!({"email": "ada@example.com", "role": "member"}),
        "Invitations.ImportInvitations" => {
            json!({"csv": "email,role\nalan@example.com,viewer\nbarbara@example.com,\n", "role": "member"})
        }
        "Ownership.OfferOwnership" => json!({"user_id": "{user_id}"}),
        "Invitations.AcceptInvitation" | "Invitations.DeclineInvitation" => {
            json!({"token": "nji_Qm9vdHN0cmFwIHRoZSBzeXN0ZW0sIHRoZW4gcmVzdC4f3a91c"})
        }
        "Domains.CreateDomain" => json!({"name": "bücher.example.com"}),
        "Domains.UpdateDomain" => json!({"joining": "automatic", "role": "member"}),
        "Domains.JoinOrg" => json!({"org_id": "{org_id}"}),
        "Support.RequestSupportAccess" => {
            json!({"reason": "Ticket 4711: jobs of the agent fixer stay queued.", "duration_minutes": 60})
        }
        "Keys.CreateKey" => json!({"name": "CI", "role": "member", "scopes": ["jobs.run", "jobs.read"]}),
        "Keys.UpdateKey" => {
            json!({"allowed_networks": ["203.0.113.0/24", "127.0.0.0/8"], "requests_per_minute": 600})
        }
        "Keys.RotateKey" => json!({"overlap_seconds": 3600}),
        "Secrets.RestoreSecret" => json!({"version": 1}),
        "Secrets.SetSecret" => json!({"value": "s3cr3t"}),
        "Subscriptions.SetPlan" => json!({"plan": "team"}),
        "Agents.CreateAgent" => json!({
            "handle": "fixer", "name": "Fixer",
            "config": {"command": "echo hello from $NITEJAR_JOB_ID", "on_opened": true, "timeout_seconds": 600},
        }),
        "Agents.UpdateAgent" => json!({"config": {"concurrency": 2}}),
        "WorkItems.CreateWorkItem" => {
            json!({"agent_id": "{agent_id}", "title": "Say hello", "dedupe_key": "hello-1"})
        }
        "Runner.ClaimJobs" => json!({"max_jobs": 1, "wait_seconds": 0}),
        "Runner.Heartbeat" => json!({"lease_epoch": 1}),
        "Runner.AppendLogs" => {
            json!({"lease_epoch": 1, "first_line": 1, "lines": [{"stream": "stdout", "text": "hello"}]})
        }
        "Runner.CompleteJob" => json!({"lease_epoch": 1, "outcome": "succeeded", "output": "done"}),
        _ => return None,
    };
    serde_json::from_str(&filled(&text.to_string())).ok()
}
