"""What the Gemini CLI is told before a call: locked-down settings, and the exact texts of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["call_settings_text", "lockdown_text", "settings_text", "stdin_text"]

LOCKDOWN: Mapping[str, Any] = {
    "admin": {
        "extensions": {"enabled": False},
        "mcp": {"enabled": False},
        "skills": {"enabled": False},
    },
    "advanced": {"autoConfigureMemory": False, "ignoreLocalEnv": True},
    "context": {
        "fileFiltering": {"enableFuzzySearch": False, "enableRecursiveFileSearch": False},
        "includeDirectoryTree": False,
    },
    "experimental": {"enableAgents": False, "extensionManagement": False},
    "general": {
        "checkpointing": {"enabled": False},
        "enableAutoUpdate": False,
        "enableAutoUpdateNotification": False,
        "maxAttempts": 1,
        "retryFetchErrors": False,
        "sessionRetention": {"enabled": False},
        "topicUpdateNarration": False,
    },
    "hooksConfig": {"enabled": False},
    "ide": {"enabled": False},
    "mcpServers": {},
    "model": {
        "compressionThreshold": 1.0,
        "disableLoopDetection": True,
        # A model that asks for a tool, although it was offered none, is otherwise called again and again.
        "maxSessionTurns": 1,
        "skipNextSpeakerCheck": True,
    },
    "privacy": {"usageStatisticsEnabled": False},
    "security": {
        "auth": {"selectedType": "gemini-api-key"},
        "disableAlwaysAllow": True,
        "disableYoloMode": True,
        "folderTrust": {"enabled": False},
    },
    "skills": {"enabled": False},
    "telemetry": {"enabled": False},
    "tools": {"core": [], "useRipgrep": False},
}
"""One call makes one request, offers no tool, reads no file and talks to nobody else."""

EXPANDED = re.compile(r"\$(?=[A-Za-z0-9_{])")
"""A dollar sign that the CLI would take for the beginning of a variable's name."""
DOLLAR = "${DISPATCH_NO_SUCH_NAME:-$}"
"""How a setting says a plain dollar sign: the default of a variable that is never set."""

AT_SIGNS_MAX = 500
"""A prompt with more costs the CLI seconds: it looks for a file behind each of them."""


def stdin_text(prompt: str) -> str:
    r"""Write what the CLI reads as the prompt, which ``extraBody`` replaces in the request.

    It is the prompt itself, but for one with very many at signs: written as ``\@`` they stand for no file.
    """
    return prompt.replace("@", r"\@") if prompt.count("@") > AT_SIGNS_MAX else prompt


def settings_text(prompt: str, system: str | None, max_tokens: int, schema: Mapping[str, Any] | None) -> str:
    """Write the settings of a process that makes one call, as JSON."""
    return json.dumps({**LOCKDOWN, **_call_settings(prompt, system, max_tokens, schema, {})})


def lockdown_text() -> str:
    """Write the settings of a process that makes many calls, as JSON; each call adds its own."""
    return json.dumps(LOCKDOWN)


def call_settings_text(
    prompt: str, system: str | None, max_tokens: int, schema: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> str:
    """Write what one call adds to ``lockdown_text``, as JSON; the headers go with its request."""
    return json.dumps(_call_settings(prompt, system, max_tokens, schema, headers))


def _call_settings(
    prompt: str, system: str | None, max_tokens: int, schema: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> dict[str, Any]:
    """Give the settings that make a request what it has to be.

    The override matches every model, so the output limit also holds when the CLI rewrites a model's name; an alias
    would lose it. ``extraBody`` is laid over the request just before it is sent. Without it the CLI puts a page about
    itself, the date and the temporary folder before the prompt, replaces ``@./`` by the working folder's content,
    sends an empty list of tools and a blank system text, and expands ``${...}`` and folds blank lines in a system
    text; with it the prompt and the system text arrive byte for byte and nothing else does.
    """
    request = {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "systemInstruction": {"parts": [{"text": system}]} if system else None,
        "tools": [],
    }
    options: dict[str, Any] = {"extraBody": request, **({"headers": dict(headers)} if headers else {})}
    config: dict[str, Any] = {"maxOutputTokens": max_tokens, "httpOptions": options}
    if schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    override = {"match": {"overrideScope": "core"}, "modelConfig": {"generateContentConfig": _literal(config)}}
    return {"modelConfigs": {"customOverrides": [override]}}


def _literal(value: Any) -> Any:
    """Protect every string from the CLI's expansion of environment variables in settings."""
    match value:
        case str():
            return EXPANDED.sub(lambda _dollar: DOLLAR, value)
        case Mapping():
            return {key: _literal(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_literal(inner) for inner in value]
        case _:
            return value
