// Lists the operations of openapi.json and sends requests. Writes text nodes only, never HTML.
"use strict";

const make = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};
let api = {};
const resolve = (schema = {}) => {
  if (schema.anyOf) return resolve(schema.anyOf[0]);
  return schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
};

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return typeOf(schema.anyOf[0]);
  if (schema.enum) return schema.enum.filter((v) => v !== null).join(" | ");
  const kind = [].concat(schema.type || "any").filter((t) => t !== "null").join(" | ") || "not in this release";
  return kind === "array" ? `${typeOf(schema.items || {})}[]` : kind;
}

function rulesOf(schema) {
  const names = { minimum: "≥", maximum: "≤", minLength: "length ≥", maxLength: "length ≤", pattern: "matches", maxItems: "items ≤" };
  return Object.entries(names).filter(([n]) => n in schema).map(([n, sign]) => `${sign} ${schema[n]}`).join(", ");
}

function row(name, schema, required, input) {
  return make("tr", {}, make("td", {}, make("code", { textContent: name + (required ? " *" : "") })),
    make("td", { textContent: typeOf(schema) }), make("td", { className: "note", textContent: rulesOf(schema) }),
    make("td", { textContent: schema.description || "" }), make("td", {}, input || ""));
}

function schemaTable(schema, depth = 0) {
  const object = resolve(schema);
  const table = make("table");
  for (const [name, field] of Object.entries(object.properties || {})) {
    table.append(row(name, field, (object.required || []).includes(name)));
    const inner = field.type === "array" ? field.items : field;
    if (depth < 3 && resolve(inner).properties) {
      table.append(make("tr", {}, make("td", { colSpan: 5 },
        make("details", {}, make("summary", { textContent: typeOf(inner) }), schemaTable(inner, depth + 1)))));
    }
  }
  return table;
}

async function show(response, output, signal) {
  output.textContent = `${response.status} ${response.statusText}\n${response.headers.get("content-type") || ""}\n\n`;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const json = (response.headers.get("content-type") || "").includes("json");
  let text = "";
  for (let part = await reader.read(); !part.done && !signal.aborted; part = await reader.read()) {
    text += part.value;
    if (!json) output.append(part.value);
    if (text.length > 2e6) { output.append("\n… (cut here)"); await reader.cancel(); break; }
  }
  if (json) output.append(JSON.stringify(JSON.parse(text), null, 2));
}

function requestOf(path, verb, inputs, body, file) {
  const query = new URLSearchParams();
  const headers = {};
  for (const [{ name, in: place }, input] of inputs) {
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(input.value));
    else if (place === "query" && input.value) query.append(name, input.value);
    else if (place === "header" && input.value) headers[name] = input.value;
  }
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { method: verb.toUpperCase(), headers };
  if (file) { options.body = new FormData(); options.body.append("file", file.files[0]); }
  if (body) { options.body = body.value; headers["Content-Type"] = "application/json"; }
  return [path + (query.size ? `?${query}` : ""), options];
}

function tryForm(path, verb, operation, inputs, body, file) {
  const output = make("pre", { hidden: true });
  let running = null;
  const stop = make("button", { type: "button", textContent: "Stop", onclick: () => running && running.abort() });
  const send = make("button", { type: "button", textContent: "Send", onclick: async () => {
    if (running) running.abort();
    const current = running = new AbortController();
    output.hidden = false;
    const [url, options] = requestOf(path, verb, inputs, body, file);
    output.textContent = `${options.method} ${url} …`;
    try {
      await show(await fetch(url, { ...options, signal: current.signal }), output, current.signal);
    } catch (error) { output.append(`\n${error}`); }
  } });
  return make("div", {}, send, stop, output);
}

function card(path, verb, operation) {
  const box = make("details", {}, make("summary", {}, make("span", { className: "verb", textContent: verb.toUpperCase() }),
    make("span", { className: "path", textContent: path }), make("span", { className: "note", textContent: operation.summary })));
  box.dataset.text = `${verb} ${path} ${operation.operationId} ${operation.description}`.toLowerCase();
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) fillCard(box, path, verb, operation); });
  return box;
}

function fillCard(box, path, verb, operation) {
  box.append(make("p", { textContent: operation.description }));
  const inputs = (operation.parameters || []).map((p) => [p, make("input", { ariaLabel: p.name })]);
  if (inputs.length) {
    box.append(make("table", {}, ...inputs.map(([p, input]) => row(`${p.name} (${p.in})`, { ...p.schema, description: p.description }, p.required, input))));
  }
  const content = (operation.requestBody || {}).content || {};
  const json = content["application/json"];
  const file = content["multipart/form-data"] && make("input", { type: "file", ariaLabel: "file" });
  let body = null;
  if (json) {
    const needed = resolve(json.schema).required || [];
    body = make("textarea", { ariaLabel: "body", value: JSON.stringify(Object.fromEntries(needed.map((n) => [n, ""])), null, 2) });
    box.append(schemaTable(json.schema), body);
  }
  if (file) box.append(schemaTable(content["multipart/form-data"].schema), file);
  box.append(tryForm(path, verb, operation, inputs, body, file));
  for (const [media, { schema = {} }] of Object.entries(operation.responses["200"].content || {})) {
    box.append(make("h3", { textContent: `Answer: ${media}` }), schemaTable(schema.properties?.data?.contentSchema || schema));
  }
}

async function start() {
  api = await (await fetch("/openapi.json")).json();
  const main = document.getElementById("operations");
  main.textContent = "";
  for (const tag of api.tags) {
    const section = make("section", {}, make("h2", { textContent: tag.name }), make("p", { textContent: tag.description }));
    for (const [path, verbs] of Object.entries(api.paths)) {
      for (const [verb, operation] of Object.entries(verbs)) {
        if (operation.tags.includes(tag.name)) section.append(card(path, verb, operation));
      }
    }
    main.append(section);
  }
  document.getElementById("search").addEventListener("input", (event) => {
    for (const box of main.querySelectorAll("section > details")) box.hidden = !box.dataset.text.includes(event.target.value.toLowerCase());
  });
}
start().catch((error) => { document.getElementById("operations").textContent = String(error); });
