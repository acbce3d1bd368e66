import { api, element, say } from "/assets/api.js";

// The secret stands behind the # so that no server, proxy or log sees it; it leaves the address bar at once.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", location.pathname);
const choice = document.getElementById("choice");

async function answer(verb, done) {
  choice.hidden = true;
  try {
    await api("POST", `/v1/invitations:${verb}`, { token });
    done();
  } catch (error) {
    const other = error.status === 404 ? " It may be for another address than the one you signed in with." : "";
    say("message", error.message + other, "bad");
  }
}

document.getElementById("accept").addEventListener("click", () => answer("accept", () => location.replace("/account")));
document.getElementById("decline").addEventListener("click", () => answer("decline", () => say("message", "You declined.")));

try {
  if (!token) throw new Error("This link is not complete. Open it as it stands in the mail.");
  const me = await api("GET", "/v1/me");
  say("message", `You are signed in as ${me.email}.`);
  choice.hidden = false;
} catch (error) {
  say("message", error.status === 401 ? "" : error.message, "bad");
  if (error.status === 401) {
    const message = document.getElementById("message");
    message.className = "";
    const link = element("a", { href: "/sign-in" }, "Sign in");
    message.append(link, " with the address that was invited, then open the link of the mail again.");
  }
}
