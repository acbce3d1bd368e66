import { api, element, say } from "/assets/api.js";

const time = (text) => new Date(text).toLocaleString();

async function show() {
  const me = await api("GET", "/v1/me");
  document.getElementById("who").textContent = `${me.name} · ${me.email}`;
  const orgs = [];
  let token = "";
  do {
    const page = await api("GET", `/v1/orgs?page_size=100&page_token=${encodeURIComponent(token)}`);
    orgs.push(...page.orgs);
    token = page.next_page_token;
  } while (token);
  const none = element("tr", {}, element("td", { class: "soft" }, "None yet."));
  const rows = orgs.map((o) => element("tr", {}, element("td", {}, o.name), element("td", { class: "soft" }, o.slug), element("td", { class: "end" }, o.my_role)));
  document.getElementById("orgs").replaceChildren(...(rows.length ? rows : [none]));
  const { sessions } = await api("GET", "/v1/me/sessions");
  document.getElementById("sessions").replaceChildren(...sessions.map(row));
}

function row(session) {
  const end = session.current
    ? element("span", { class: "good" }, "this browser")
    : element("button", { onclick: () => act("DELETE", `/v1/me/sessions/${session.id}`) }, "End");
  return element("tr", {},
    element("td", {}, session.user_agent || "unknown"),
    element("td", {}, session.address),
    element("td", {}, time(session.last_seen_at)),
    element("td", { class: "end" }, end));
}

async function act(method, path, body) {
  try {
    await api(method, path, body);
    await show();
  } catch (error) {
    if (error.status === 401) location.replace("/sign-in");
    else say("message", error.message, "bad");
  }
}

document.getElementById("out").addEventListener("click", () => act("POST", "/v1/me:signOut", {}));
document.getElementById("everywhere").addEventListener("click", () => act("POST", "/v1/me:signOutEverywhere", {}));
await act("GET", "/v1/me");
