"""The whole story by a generated client: openapi-python-client's package of our document, no hand edits.

Usage: python story.py GATEWAY GITHUB OPERATOR_KEY, with the package nitejar_client on the path.
"""

import secrets as random
import sys
import time

import httpx
from nitejar_client import AuthenticatedClient, Client
from nitejar_client.api.agents import agents_create_agent, agents_delete_agent
from nitejar_client.api.audit_events import audit_events_list_audit_events, audit_events_verify_audit_chain
from nitejar_client.api.integrations import integrations_finish_github_install, integrations_start_github_install
from nitejar_client.api.invitations import invitations_accept_invitation, invitations_create_invitation
from nitejar_client.api.jobs import jobs_get_job, jobs_stream_job_logs
from nitejar_client.api.members import members_leave_org
from nitejar_client.api.orgs import orgs_create_org, orgs_get_org, orgs_update_org
from nitejar_client.api.secrets import secrets_set_secret
from nitejar_client.api.usage import usage_get_usage
from nitejar_client.api.users import users_create_user, users_create_user_key
from nitejar_client.api.work_items import work_items_list_work_items
from nitejar_client import models as m

GATEWAY, GITHUB, OPERATOR_KEY = sys.argv[1:4]
TAG = random.token_hex(4)
STEPS = 0


def step(what, holds):
    global STEPS
    STEPS += 1
    assert holds, f"step {STEPS}: {what}"


def client(key):
    return AuthenticatedClient(base_url=GATEWAY, token=key) if key else Client(base_url=GATEWAY)


def good(answer):
    assert answer is not None and not isinstance(answer, m.Problem), answer
    return answer


def refused(answer):
    assert isinstance(answer, m.Problem), answer
    return str(answer.code)


def until(ask, done):
    for _ in range(600):
        answer = good(ask())
        if done(answer):
            return answer
        time.sleep(0.05)
    raise AssertionError("waited 30 s for nothing")


def fake(path, body):
    return httpx.post(GITHUB + path, json=body).json()


operator = client(OPERATOR_KEY)


def person(name):
    body = m.UsersCreateUserBody(email=f"{name}-{TAG}@example.com", name=name)
    user = good(users_create_user.sync(client=operator, body=body))
    key = users_create_user_key.sync(user.id, client=operator, body=m.UsersCreateUserKeyBody(name="story"))
    return client(good(key).secret)


ada = person("ada")
create = m.OrgsCreateOrgBody(slug=f"py-{TAG}", name="Acme")
org = good(orgs_create_org.sync(client=ada, body=create, idempotency_key=TAG))
again = good(orgs_create_org.sync(client=ada, body=create, idempotency_key=TAG))
step("an organization, once", org.state == "active" and org.id == again.id)
o = org.id

change = m.OrgsUpdateOrgBody(settings=m.OrgSettingsInput(timezone="Europe/Berlin"))
updated = good(orgs_update_org.sync(o, client=ada, body=change, if_match=org.etag))
step("settings", updated.settings.timezone == "Europe/Berlin")
step("an old ETag", refused(orgs_update_org.sync(o, client=ada, body=change, if_match=org.etag)) == "etag_mismatch")

invite = m.InvitationsCreateInvitationBody(email=f"bob-{TAG}@example.com", role=m.InvitationsCreateInvitationBodyRole.MEMBER)
invited = good(invitations_create_invitation.sync(o, client=ada, body=invite))
bob = person("bob")
accept = m.InvitationsAcceptInvitationBody(token=invited.token)
step("Bob joins", good(invitations_accept_invitation.sync(client=bob, body=accept)).org_id == o)
bobs = agents_create_agent.sync(o, client=bob, body=m.AgentsCreateAgentBody(handle="bobs"))
step("as a member", refused(bobs) == "permission_denied" and bobs.permission == "agents.write")

good(secrets_set_secret.sync(o, "DEPLOY_TOKEN", client=ada, body=m.SecretsSetSecretBody(value=f"s3cr3t-{TAG}")))
command = "echo \"token is $DEPLOY_TOKEN\"; echo 'Fixed.' > \"$NITEJAR_RESULT\""
config = m.AgentConfigInput(command=command, secrets=["DEPLOY_TOKEN"], labels=["fix-me"])
agent = good(agents_create_agent.sync(o, client=ada, body=m.AgentsCreateAgentBody(handle="fixer", config=config)))
second = agents_create_agent.sync(o, client=ada, body=m.AgentsCreateAgentBody(handle="second"))
step("one agent on the free plan", refused(second) == "agents_limit")

nothing = m.IntegrationsStartGithubInstallBody()
started = good(integrations_start_github_install.sync(o, client=ada, body=nothing))
state = started.url.split("state=")[1]
repository = f"py-{TAG}/site"
installed = fake("/_fake/installations", {"account": f"py-{TAG}", "repositories": [repository]})
number = installed["installation_id"]
finish = integrations_finish_github_install.sync(
    client=ada, installation_id=number, code=installed["code"], state=state
)
step("GitHub", good(finish).installation_id == number)
wish = {"installation_id": number, "repository": repository, "title": "Broken", "body": "", "labels": ["fix-me"]}
step("an issue", fake("/_fake/issues", wish)["status"] == 202)

items = until(lambda: work_items_list_work_items.sync(o, client=ada), lambda v: v.work_items)
job_id = items.work_items[0].job_ids[0]
job = until(lambda: jobs_get_job.sync(o, job_id, client=ada), lambda j: j.state not in ("queued", "running"))
step("the job", job.state == "completed" and job.output.strip() == "Fixed.")
logs = jobs_stream_job_logs.sync_detailed(o, job_id, client=ada, follow=True).content.decode()
step("its output", "token is ***" in logs and f"s3cr3t-{TAG}" not in logs)

counted = lambda u: any(x.meter == "jobs" and x.used == 1 for x in u.meters)
step("one job counted", until(lambda: usage_get_usage.sync(o, client=ada), counted))
step("a stranger", refused(orgs_get_org.sync(o, client=person("eve"))) == "not_found")
events = lambda: audit_events_list_audit_events.sync(o, client=ada, page_size=500)
until(events, lambda v: any(e.action == "job.finished" for e in v.events))
step("the chain holds", good(audit_events_verify_audit_chain.sync(o, client=ada)).valid)
good(agents_delete_agent.sync(o, agent.id, client=ada))
step("the last owner", refused(members_leave_org.sync(o, client=ada, body=m.MembersLeaveOrgBody())) == "last_owner")
print(f"passed {STEPS}")
