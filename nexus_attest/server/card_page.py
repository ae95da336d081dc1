"""The approval card as a document: HTML for MCP Apps (SEP-1865), which holds no data and loads nothing.

The host shows it in a sandboxed frame and sends it the result of `approve`. Whatever comes from there is shown as text, never as
markup. Its own policy names the hashes of its one style and its one script, so nothing that somebody wrote into a goal could run, even if
it got in.
"""

from base64 import b64encode
from hashlib import sha256

__all__ = ["CARD_HTML"]

_STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 0; padding: 12px; }
h1 { font-size: 1.1em; margin: 0 0 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 0 0 12px; }
dt { opacity: .7; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
button { font: inherit; padding: 6px 14px; margin-right: 8px; }
"""

_SCRIPT = """
"use strict";
const KEY = "io.github.nexus-attest/card";
const ERROR_KEY = "io.github.nexus-attest/error";
const $ = (id) => document.getElementById(id);
const waiting = new Map();
let last = 0, card = null, host = {};

const send = (message) => parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
const notify = (method, params) => send({ method, params });
const request = (method, params) =>
  new Promise((resolve, reject) => {
    last += 1;
    waiting.set(last, { resolve, reject });
    send({ id: last, method, params });
  });

const say = (text) => {
  $("said").textContent = text;
  resized();
};
const resized = () => {
  const { scrollWidth: width, scrollHeight: height } = document.documentElement;
  notify("ui/notifications/size-changed", { width, height });
};
const enable = (on) => {
  for (const button of document.querySelectorAll("button")) button.disabled = !on;
};
const textOf = (result) => (result.content || []).filter((block) => block.type === "text").map((block) => block.text).join("\\n");

function show(result) {
  const found = result._meta && result._meta[KEY];
  card = null;
  enable(false);
  $("facts").replaceChildren();
  if (!found || !Array.isArray(found.facts) || typeof found.ticket !== "string" || typeof found.tool !== "string") {
    $("what").textContent = "Nothing is asked";
    $("answers").hidden = true;
    say(textOf(result));
    return;
  }
  $("what").textContent = String(found.title);
  for (const [label, value] of found.facts) {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = String(label);
    said.textContent = String(value);
    $("facts").append(term, said);
  }
  $("answers").hidden = false;
  say("");
  card = found;
  // A click that was meant for what stood here before must not answer.
  setTimeout(() => card === found && enable(true), 700);
}

async function answer(approve) {
  if (!card) return;
  const asked = card;
  card = null;
  enable(false);
  say("...");
  try {
    const result = await request("tools/call", { name: asked.tool, arguments: { ticket: asked.ticket, approve } });
    const error = result.isError && result._meta && result._meta[ERROR_KEY];
    if (error && error.retryable) {  // nothing was recorded, and the ticket is as good as before
      card = asked;
      enable(true);
      say(textOf(result));
      return;
    }
    $("answers").hidden = true;
    say(result.isError ? textOf(result) : "Approved: " + textOf(result));
    const told = result.isError ? textOf(result) : "The user approved on the card: " + textOf(result);
    if (host.updateModelContext) await request("ui/update-model-context", { content: [{ type: "text", text: told }] });
  } catch (error) {
    say("Whether this was recorded is unknown: " + String(error && error.message));
  }
}

addEventListener("message", (event) => {
  const message = event.data;
  if (event.source !== parent || !message || message.jsonrpc !== "2.0") return;
  if (message.method === undefined) {
    const call = waiting.get(message.id);
    waiting.delete(message.id);
    if (call && message.error) call.reject(message.error);
    else if (call) call.resolve(message.result || {});
  } else if (message.method === "ui/notifications/tool-result") {
    show(message.params || {});
  } else if (message.method === "ui/notifications/tool-cancelled") {
    show({});
  } else if (message.id !== undefined) {
    const known = message.method === "ping" || message.method === "ui/resource-teardown";
    send(known ? { id: message.id, result: {} } : { id: message.id, error: { code: -32601, message: "Method not found" } });
  }
});

$("yes").addEventListener("click", (event) => event.isTrusted && answer(true));
$("no").addEventListener("click", (event) => event.isTrusted && answer(false));

request("ui/initialize", {
  protocolVersion: "2026-01-26",
  appInfo: { name: "nexus-attest approval", version: "1" },
  appCapabilities: {},
}).then(
  (result) => {
    host = result.hostCapabilities || {};
    notify("ui/notifications/initialized", {});
    resized();
  },
  (error) => say(String(error && error.message)),
);
"""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


CARD_HTML = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; \
base-uri 'none'; form-action 'none'">
<title>Approval</title>
<style>{_STYLE}</style>
<h1 id="what">Waiting for the question</h1>
<dl id="facts"></dl>
<p id="answers" hidden><button id="yes" disabled>Approve</button><button id="no" disabled>Refuse</button></p>
<p id="said" role="status"></p>
<script>{_SCRIPT}</script>
</html>
"""
"""The same bytes for everybody, so that a host may review it once."""
