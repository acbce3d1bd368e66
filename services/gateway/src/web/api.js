// What all pages share: calls of the public API, and text that is never taken for markup.

export async function api(method, path, body) {
  const options = { method, headers: {}, credentials: "same-origin" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const errors = (answer.errors || []).map((e) => `${e.pointer} ${e.detail}`).join("; ");
    const error = new Error([answer.detail || `The server answered ${response.status}.`, errors].filter(Boolean).join(" "));
    error.code = answer.code;
    error.status = response.status;
    throw error;
  }
  return answer;
}

// An element with text or children.
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

export function say(id, text, kind) {
  const place = document.getElementById(id);
  place.textContent = text;
  place.className = kind || "";
}
