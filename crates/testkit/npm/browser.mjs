// A person at a real browser: signs in by the link in the mailbox, on two devices, and signs out everywhere; reads the API
// reference. Prints one JSON object; fails when a page asks anybody but us, or says something in its console.
// Usage: node browser.mjs GATEWAY MAILBOX EMAIL [DIRECTORY FOR PICTURES]
import { chromium } from "playwright-core";

const [gateway, mailbox, email, pictures] = process.argv.slice(2);
const path = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const { existsSync } = await import("node:fs");
const browser = await chromium.launch({ executablePath: path.find(existsSync), args: ["--no-sandbox"] });
const problems = [];

// A device: a browser with cookies of its own.
async function device(name) {
  const context = await browser.newContext();
  context.on("page", (page) => {
    page.on("request", (r) => {
      const ours = [gateway, mailbox].some((base) => r.url().startsWith(base + "/")) || r.url().startsWith("data:");
      if (!ours) problems.push(`${name} asked ${r.url()}`);
    });
    page.on("console", (m) => {
      // A refusal that a page shows is in the console, too.
      if (m.type() === "error" && !m.text().includes("401")) problems.push(`${name}: ${m.text()}`);
    });
    page.on("pageerror", (e) => problems.push(`${name}: ${e}`));
  });
  return { context, page: await context.newPage() };
}

async function link(count) {
  for (let i = 0; i < 200; i++) {
    const mails = await (await fetch(`${mailbox}/messages?to=${encodeURIComponent(email)}`)).json();
    if (mails.length >= count) return mails[mails.length - 1].text.match(/http\S+/)[0];
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error("no mail came");
}

const picture = async (page, name) => pictures && (await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: false }));

async function signIn({ page }, count) {
  await page.goto(`${gateway}/`);
  await page.waitForURL("**/sign-in");
  await page.getByLabel("E-mail address").fill(email);
  await page.getByRole("button", { name: "Send me a link" }).click();
  await page.getByText("A link is on its way").waitFor();
  await page.goto(await link(count));
  await page.waitForURL("**/account");
  await page.getByText(email).waitFor();
}

const laptop = await device("laptop");
await laptop.page.goto(`${gateway}/sign-in`);
await picture(laptop.page, "sign-in");
await signIn(laptop, 1);
const phone = await device("phone");
await signIn(phone, 2);
// The first device sees both, and itself as the current one.
await laptop.page.reload();
const rows = laptop.page.getByRole("table", { name: "Sessions" }).locator("tbody tr");
await rows.nth(1).waitFor();
const sessions = await rows.count();
const current = await laptop.page.getByText("this browser").count();
await picture(laptop.page, "account");

// A link used in another browser than the one that asked signs nobody in.
const thief = await device("thief");
await laptop.page.goto(`${gateway}/sign-in`);
await laptop.page.getByLabel("E-mail address").fill(email);
await laptop.page.getByRole("button", { name: "Send me a link" }).click();
await laptop.page.getByText("A link is on its way").waitFor();
const before = problems.length;
await thief.page.goto(await link(3));
await thief.page.getByText("asked for in another browser").waitFor();
problems.splice(before); // Its refusal stands in the console, as it should.
const token = new URL(thief.page.url()).hash;

await laptop.page.goto(`${gateway}/account`);
await laptop.page.getByRole("button", { name: "Sign out everywhere" }).click();
await laptop.page.waitForURL("**/sign-in");
await phone.page.goto(`${gateway}/account`);
await phone.page.waitForURL("**/sign-in");
const cookies = (await phone.context.cookies()).filter((c) => c.name === "__Host-nj_session");

await laptop.page.goto(`${gateway}/docs`);
await laptop.page.locator("body[data-ready=true]").waitFor();
const operations = await laptop.page.locator("section.operation").count();
const errors = await laptop.page.locator("tr[id^=error-]").count();
const examples = await laptop.page.locator("section.operation pre").count();
await picture(laptop.page, "docs");
await browser.close();
console.log(JSON.stringify({ sessions, current, token, httpOnly: cookies.every((c) => c.httpOnly && c.secure && c.sameSite === "Lax"), operations, errors, examples, problems }));
