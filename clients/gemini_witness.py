"""What a kept Gemini CLI really sent and heard, which its protocol does not tell: a script in it, and its notes.

Over the protocol an answer that was blocked, cut off at the limit or empty looks like any other, and neither the
served model nor all of the usage is told. So Node.js loads a script before the CLI. Of what the CLI fetches it lets
out nothing but requests that carry the header of a call, takes the header off, refuses a request in which our texts
did not replace the CLI's, and every second one of a call, and writes what goes by into the call's folder before the
CLI sees it: that the request was sent, the status, the body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["HEADER", "NOT_ASKED_FOR", "NOT_SENT", "Heard", "is_watching", "read_heard", "write_script"]

HEADER = "x-dispatch-call"
"""Names the call that a request belongs to; its value is the name of the call's folder."""

NOT_SENT = "dispatch: not sent"
"""How the message begins of a request that the script refused."""
NOT_ASKED_FOR = f"{NOT_SENT}, since"
"""How it begins where the CLI is to blame."""

WATCHING = "watching"
"""The file beside the script by which it says that Node.js has loaded it."""

SCRIPT = """\
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const root = __dirname;
const parent = process.ppid;
const send = globalThis.fetch;
delete process.env.NODE_OPTIONS;

const refuse = () => {
  throw new Error("NOT_SENT, since it is not what was asked for");
};
const note = (folder) => {
  try {
    fs.writeFileSync(path.join(folder, "sent"), ".", { flag: "wx" });
  } catch (error) {
    throw new Error(error.code === "EEXIST" ? "NOT_SENT, since it is the second of one call" : `NOT_SENT: ${error}`);
  }
};

globalThis.fetch = async (url, options = {}) => {
  if (String(url).startsWith("data:")) return send(url, options);
  const headers = new Headers(options.headers);
  const call = headers.get("x-dispatch-call") ?? "";
  if (!/^[0-9a-f]{32}$/.test(call) || typeof options.body !== "string" || options.body.includes(call)) {
    refuse();
  }
  headers.delete("x-dispatch-call");
  const folder = path.join(root, "home", "work", call);
  note(folder);
  // A redirection would be a second request, and take the key to wherever it points.
  const reply = await send(url, { ...options, headers, redirect: "manual" });
  fs.writeFileSync(path.join(folder, "status"), String(reply.status));
  if (reply.body === null) return reply;
  const body = reply.body.pipeThrough(new TransformStream({
    transform(piece, out) {
      fs.appendFileSync(path.join(folder, "body"), piece);
      out.enqueue(piece);
    },
  }));
  return new Response(body, { status: reply.status, statusText: reply.statusText, headers: reply.headers });
};

// The older ways out.
for (const name of ["http", "https"]) Object.assign(require(`node:${name}`), { request: refuse, get: refuse });
require("node:http2").connect = refuse;
require("node:module").syncBuiltinESMExports();

// Whoever started the CLI may be killed: then nobody ends it, and nobody removes its folder. A wrapper between us hides
// that from the parent's number, and a process that was forked off us from the end of stdin.
if (require("node:worker_threads").isMainThread) {
  let ended = false;
  const alone = () => ended || process.ppid !== parent;
  process.on("exit", () => {
    if (alone()) fs.rmSync(root, { recursive: true, force: true });
  });
  process.stdin.once("end", () => {
    ended = true;
    process.exit(1);
  });
  setInterval(() => {
    if (alone()) process.exit(1);
  }, 500).unref();
  fs.writeFileSync(path.join(root, "WATCHING"), "");
}
""".replace("NOT_SENT", NOT_SENT).replace("WATCHING", WATCHING)


@dataclass(frozen=True)
class Heard:
    """What was sent and heard in one call, in Google's words.

    Attributes:
        requests: how many were sent; 0 is certain, since it is noted before; None when the notes are gone.
        finished: why the answer ended; None when it broke off.
        blocked: why the prompt itself was refused.
        usage: the last ``usageMetadata``, untouched.
    """

    requests: int | None = 0
    status: int | None = None
    served_model: str | None = None
    response_id: str | None = None
    finished: str | None = None
    blocked: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)


def write_script(path: Path) -> str:
    """Write the script, which keeps its notes around itself; return the NODE_OPTIONS that load it."""
    path.write_text(SCRIPT)
    quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'--require="{quoted}"'


def is_watching(script: Path) -> bool:
    """Tell whether Node.js has loaded it."""
    return script.with_name(WATCHING).exists()


def read_heard(folder: Path) -> Heard:
    """Read a call's notes; what is not there did not happen."""
    status = _bytes(folder / "status")
    facts: dict[str, Any] = {}
    for event in _events(_bytes(folder / "body")):
        facts |= _facts(event)
    requests = len(_bytes(folder / "sent")) if folder.is_dir() else None
    return Heard(requests=requests, status=int(status) if status.isdigit() else None, **facts)


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    """Give what one event of the stream tells, by the names of ``Heard``."""
    candidates = event.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates and isinstance(candidates[0], dict) else {}
    feedback = event.get("promptFeedback")
    told = {
        "served_model": event.get("modelVersion"),
        "response_id": event.get("responseId"),
        "finished": first.get("finishReason"),
        "blocked": feedback.get("blockReason") if isinstance(feedback, dict) else None,
    }
    words = {name: value for name, value in told.items() if isinstance(value, str) and value}
    usage = event.get("usageMetadata")
    return words | ({"usage": usage} if isinstance(usage, dict) else {})


def _events(body: bytes) -> Iterator[Mapping[str, Any]]:
    for line in body.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            event = json.loads(line.removeprefix(b"data:"))
        except (ValueError, RecursionError):
            continue  # a line that broke off
        if isinstance(event, dict):
            yield event


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
