import { api, say } from "/assets/api.js";

const form = document.getElementById("form");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  say("message", "Sending …");
  try {
    const email = form.email.value;
    await api("POST", "/v1/sign-in", { email });
    say("message", `A link is on its way to ${email}. Open it in this browser within 15 minutes.`, "good");
  } catch (error) {
    say("message", error.message, "bad");
  }
  button.disabled = false;
});
