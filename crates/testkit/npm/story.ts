// The whole story by a generated client: openapi-typescript's types of our document, openapi-fetch, no hand edits.
// Usage: node story.js GATEWAY GITHUB OPERATOR_KEY
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

const [gateway, github, operatorKey] = process.argv.slice(2) as [string, string, string];
type Problem = components["schemas"]["Problem"];

const as = (key: string) => {
  const client = createClient<paths>({ baseUrl: gateway });
  if (key) client.use({ onRequest: ({ request }) => (request.headers.set("Authorization", `Bearer ${key}`), request) });
  return client;
};
let steps = 0;
function step(what: string, holds: unknown): asserts holds {
  steps += 1;
  if (!holds) throw new Error(`step ${steps}: ${what}`);
}
// What must succeed.
async function good<T>(call: Promise<{ data?: T; error?: Problem; response: Response }>): Promise<T> {
  const { data, error, response } = await call;
  if (data === undefined) throw new Error(`${response.url} answered ${response.status}: ${error?.code} ${error?.detail}`);
  return data;
}
// What must be refused.
async function refused(call: Promise<{ data?: unknown; error?: Problem }>): Promise<Problem> {
  const { error } = await call;
  if (!error) throw new Error("this was not refused");
  return error;
}
async function until<T>(ask: () => Promise<T>, done: (t: T) => boolean): Promise<T> {
  for (let i = 0; i < 600; i++) {
    const answer = await ask();
    if (done(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("waited 30 s for nothing");
}
const fake = async (path: string, body: unknown) =>
  (await fetch(github + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json() as Promise<any>;

const tag = Math.random().toString(16).slice(2, 10);
const operator = as(operatorKey);
async function person(name: string) {
  const user = await good(operator.POST("/v1/operator/users", { body: { email: `${name}-${tag}@example.com`, name } }));
  const key = await good(operator.POST("/v1/operator/users/{user_id}/keys", { params: { path: { user_id: user.id } }, body: { name: "story" } }));
  return { user, client: as(key.secret) };
}

const ada = (await person("ada")).client;
const create = { params: { header: { "Idempotency-Key": tag } }, body: { slug: `ts-${tag}`, name: "Acme" } };
const org = await good(ada.POST("/v1/orgs", create));
step("an organization, once", org.state === "active" && (await good(ada.POST("/v1/orgs", create))).id === org.id);
const path = { org_id: org.id };

const change = { params: { path, header: { "If-Match": org.etag } }, body: { settings: { timezone: "Europe/Berlin" } } };
step("settings", (await good(ada.PATCH("/v1/orgs/{org_id}", change))).settings?.timezone === "Europe/Berlin");
step("an old ETag", (await refused(ada.PATCH("/v1/orgs/{org_id}", change))).code === "etag_mismatch");

const invited = await good(ada.POST("/v1/orgs/{org_id}/invitations", { params: { path }, body: { email: `bob-${tag}@example.com`, role: "member" } }));
const bob = (await person("bob")).client;
step("Bob joins", (await good(bob.POST("/v1/invitations:accept", { body: { token: invited.token } }))).org_id === org.id);
step("as a member", (await refused(bob.POST("/v1/orgs/{org_id}/agents", { params: { path }, body: { handle: "bobs" } }))).permission === "agents.write");

await good(ada.PUT("/v1/orgs/{org_id}/secrets/{name}", { params: { path: { ...path, name: "DEPLOY_TOKEN" } }, body: { value: `s3cr3t-${tag}` } }));
const command = `echo "token is $DEPLOY_TOKEN"; echo 'Fixed.' > "$NITEJAR_RESULT"`;
const agent = await good(ada.POST("/v1/orgs/{org_id}/agents", { params: { path }, body: { handle: "fixer", config: { command, secrets: ["DEPLOY_TOKEN"], labels: ["fix-me"] } } }));
step("one agent on the free plan", (await refused(ada.POST("/v1/orgs/{org_id}/agents", { params: { path }, body: { handle: "second" } }))).code === "agents_limit");

const started = await good(ada.POST("/v1/orgs/{org_id}/integrations:startGithubInstall", { params: { path }, body: {} }));
const state = started.url.split("state=")[1]!;
const repository = `ts-${tag}/site`;
const installed = await fake("/_fake/installations", { account: `ts-${tag}`, repositories: [repository] });
const integration = await good(ada.GET("/v1/github/setup", { params: { query: { installation_id: installed.installation_id, code: installed.code, state } } }));
step("GitHub", integration.installation_id === installed.installation_id);
const issue = await fake("/_fake/issues", { installation_id: installed.installation_id, repository, title: "Broken", body: "", labels: ["fix-me"] });
step("an issue", issue.status === 202);

const items = await until(() => good(ada.GET("/v1/orgs/{org_id}/work-items", { params: { path } })), (v) => v.work_items.length > 0);
const job_id = items.work_items[0]!.job_ids[0]!;
const job = await until(() => good(ada.GET("/v1/orgs/{org_id}/jobs/{job_id}", { params: { path: { ...path, job_id } } })), (j) => !["queued", "running"].includes(j.state));
step("the job", job.state === "completed" && job.output.trim() === "Fixed.");
const logs = await good(ada.GET("/v1/orgs/{org_id}/jobs/{job_id}/logs", { params: { path: { ...path, job_id }, query: { follow: true } }, parseAs: "text" }));
step("its output", logs.includes("token is ***") && !logs.includes(`s3cr3t-${tag}`));

const usage = await until(() => good(ada.GET("/v1/orgs/{org_id}/usage", { params: { path } })), (u) => u.meters.some((m) => m.meter === "jobs" && m.used === 1));
step("one job counted", usage.meters.length > 0);
const eve = (await person("eve")).client;
step("a stranger", (await refused(eve.GET("/v1/orgs/{org_id}", { params: { path } }))).code === "not_found");
await until(() => good(ada.GET("/v1/orgs/{org_id}/audit-events", { params: { path, query: { page_size: 500 } } })), (v) => v.events.some((e) => e.action === "job.finished"));
step("the chain holds", (await good(ada.GET("/v1/orgs/{org_id}/audit-events:verify", { params: { path } }))).valid);
await good(ada.DELETE("/v1/orgs/{org_id}/agents/{agent_id}", { params: { path: { ...path, agent_id: agent.id } } }));
step("the last owner", (await refused(ada.POST("/v1/orgs/{org_id}:leave", { params: { path }, body: {} }))).code === "last_owner");
console.log(`passed ${steps}`);
