// The API reference, made of /openapi.json in the reader's browser.
import { api, element } from "/assets/api.js";

const spec = await api("GET", "/openapi.json");
const resolve = (schema) => (schema && schema.$ref ? spec.components.schemas[schema.$ref.split("/").pop()] : schema);

// Text with `code` in it.
function prose(text) {
  const parts = (text || "").split("`");
  return element("span", {}, ...parts.map((part, i) => (i % 2 ? element("code", {}, part) : part)));
}

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  if (schema.enum) return schema.enum.filter(Boolean).join(" | ");
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "any";
}

function fields(schema, depth) {
  const object = resolve(schema) || {};
  const rows = [];
  for (const [name, field] of Object.entries(object.properties || {})) {
    const must = (object.required || []).includes(name) ? element("b", {}, " required") : null;
    rows.push(element("tr", {}, element("td", {}, element("code", {}, name), must), element("td", { class: "soft" }, kind(field)), element("td", {}, prose(field.description))));
    const inner = field.type === "array" ? field.items : field;
    if (inner.$ref && depth < 2) rows.push(element("tr", {}, element("td", { colspan: "3" }, element("details", {}, element("summary", {}, kind(inner)), fields(inner, depth + 1)))));
  }
  return rows.length ? element("table", {}, element("tbody", {}, ...rows)) : element("p", { class: "soft" }, "Nothing.");
}

function example(operation, verb, path) {
  const given = operation["x-example"];
  if (!given) return null;
  const lines = [`curl -X ${verb.toUpperCase()} "${location.origin}${given.path}"`];
  if (!operation.security || operation.security.some((s) => s.bearer)) lines.push(`-H "Authorization: Bearer $KEY"`);
  if (given.body) lines.push(`-H "Content-Type: application/json"`, `-d '${JSON.stringify(given.body)}'`);
  return element("pre", {}, lines.join(" \\\n  "));
}

function operation(verb, path, op) {
  const id = op.operationId;
  const section = element("section", { class: "operation", id });
  section.append(element("h2", {}, op.summary), element("p", {}, element("span", { class: "verb" }, verb.toUpperCase()), element("code", {}, path)));
  section.append(element("p", {}, prose(op.description)));
  const needs = [op["x-permission"] ? `Permission ${op["x-permission"]}.` : "", op["x-scope"] === "public" ? "No credential." : `For: ${op["x-scope"]}.`];
  section.append(element("p", { class: "soft" }, needs.join(" ")));
  const shown = example(op, verb, path);
  if (shown) section.append(shown);
  if (op.parameters) {
    const rows = op.parameters.map((p) => element("tr", {}, element("td", {}, element("code", {}, p.name), p.required ? element("b", {}, " required") : null), element("td", { class: "soft" }, `${p.in}, ${kind(p.schema)}`), element("td", {}, prose(p.description))));
    section.append(element("h3", {}, "Parameters"), element("table", {}, element("tbody", {}, ...rows)));
  }
  if (op.requestBody) section.append(element("h3", {}, "Body"), fields(op.requestBody.content["application/json"].schema, 0));
  const ok = op.responses["200"].content || {};
  if (ok["application/json"]) section.append(element("h3", {}, "Answer"), fields(ok["application/json"].schema, 0));
  const refusals = Object.entries(op.responses).filter(([status]) => status !== "200");
  section.append(element("details", {}, element("summary", {}, "Errors"), element("table", {}, element("tbody", {}, ...refusals.map(([status, r]) => element("tr", {}, element("td", {}, status), element("td", {}, prose(r.description))))))));
  return section;
}

const byTag = new Map(spec.tags.map((tag) => [tag.name, { tag, operations: [] }]));
for (const [path, verbs] of Object.entries(spec.paths)) {
  for (const [verb, op] of Object.entries(verbs)) byTag.get(op.tags[0]).operations.push({ verb, path, op });
}
const contents = [element("a", { href: "#errors" }, "Errors")];
const body = [element("h1", {}, `${spec.info.title} ${spec.info.version}`), element("p", {}, prose(spec.info.description))];
for (const { tag, operations } of byTag.values()) {
  contents.push(element("b", {}, tag.name));
  body.push(element("h1", { id: `tag-${tag.name}` }, tag.name), element("p", {}, prose(tag.description)));
  for (const { verb, path, op } of operations) {
    contents.push(element("a", { href: `#${op.operationId}` }, op.summary));
    body.push(operation(verb, path, op));
  }
}
const errors = spec["x-errors"].map((e) => element("tr", { id: `error-${e.code}` }, element("td", {}, element("code", {}, e.code)), element("td", {}, String(e.status)), element("td", {}, prose(`${e.title} ${e.advice}`))));
body.push(element("h1", { id: "errors" }, "Errors"), element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "Code"), element("th", {}, "Status"), element("th", {}, "What to do"))), element("tbody", {}, ...errors)));
document.getElementById("contents").replaceChildren(...contents);
document.getElementById("reference").replaceChildren(...body);
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
document.body.dataset.ready = "true";
