import { api, say } from "/assets/api.js";

// The secret stands behind the # so that no server, proxy or log sees it; it leaves the address bar at once.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", location.pathname);

try {
  if (!token) throw new Error("This link is not complete. Ask for a new one.");
  await api("POST", "/v1/sign-in:finish", { token });
  location.replace("/account");
} catch (error) {
  say("message", error.message, "bad");
}
