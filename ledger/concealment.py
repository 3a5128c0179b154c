"""Keeping secrets out of what is written down: keys, bearer tokens, passwords in URLs, and patterns of one's own.

For the words of others about a call: providers' messages, stderr, ids, raw usage, complaints. Prompts and answers are
the user's own and stay as they are. Nothing here is proof: a secret of a shape that nobody named passes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from itertools import takewhile
from typing import Any, Final
from urllib.parse import quote

__all__ = ["HIDDEN", "Hide", "conceal", "concealment", "pattern_fault"]

Hide = Callable[[str], str]

HIDDEN: Final = "[secret]"
KEYS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY")
"""Variables whose values are secrets."""
URLS: Final = (
    "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "DISPATCH_LEDGER_URL",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
)  # fmt: skip
"""Variables whose passwords are."""
LENGTH_MIN: Final = 8
"""Of a secret from the environment: a shorter one would be found in every second word."""
PIECE: Final = 12
"""So much of one, from either end, gives it away as well: messages are cut."""

PASSWORD: Final = re.compile(r"://[^\s/:@]{0,128}:([^\s/@]{1,256})@")
BEARERS: Final = r"(?=[A-Za-z._~+/=-]{0,64}[0-9]|\S{20})[A-Za-z0-9._~+/=-]{8,4096}"
"""A bearer's token: with a digit, or long; no other word."""
NAMED: Final = r"(?:x-api-key|x-goog-api-key|api[_-]?key)[\\\"']{0,4}\s{0,4}[:=]\s{0,4}[\\\"']{0,4}"
SHAPES: Final = (
    (re.compile(r"(://)[^\s/:@\"']{0,128}:[^\s/@\"']{1,256}@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{12,512}"), HIDDEN),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{12,128}"), HIDDEN),
    (re.compile(r"\bya29\.[A-Za-z0-9_.-]{12,2048}"), HIDDEN),
    (re.compile(rf"(?i)\b(bearer\s{{1,8}}){BEARERS}"), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)\b({NAMED})(?!\[secret)[^\s\"'\\,;&)}}]{{8,512}}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:key|access_token|token|password)=)(?!\[secret)[^\s&\"'\\]{4,512}"), rf"\1{HIDDEN}"),
)
"""What secrets look like, every repeat with a bound, so that no text makes the search slow."""
HINT: Final = re.compile(r"(?i)://|sk-|AIza|ya29\.|bearer|api[_-]?key|[?&](?:key|access_token|token|password)=")
"""What a text has in it that has any of these: most have none."""

PATTERN_CHARACTERS_MAX: Final = 256
MATCH_CHARACTERS_MAX: Final = 1024
WAYS_MAX: Final = 1000
"""In how many ways a pattern may try to match at one place."""
DOUBLINGS: Final = 10
"""Repeats of what has two ways itself: one more, and there are too many."""


def conceal(text: str) -> str:
    """Return a text without what this process's environment, or its looks, tell to be a secret."""
    return concealment()(text)


def concealment(patterns: Iterable[str] = (), environ: Mapping[str, str] | None = None) -> Hide:
    """Return what hides secrets in a text.

    Args:
        patterns: regular expressions of one's own, as ``pattern_fault`` lets through.
        environ: the environment; None is this process's as it stands now.
    """
    own = tuple(re.compile(pattern) for pattern in patterns)
    secrets = _secrets(_relevant(os.environ if environ is None else environ))

    def hide(text: str) -> str:
        for secret in secrets:
            text = _without(text, secret)
        if HINT.search(text):
            for shape, instead in SHAPES:
                text = shape.sub(instead, text)
        for pattern in own:
            text = pattern.sub(HIDDEN, text)
        return text

    return hide


def _relevant(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name in (*KEYS, *URLS) if (value := environ.get(name)))


@lru_cache(8)
def _secrets(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Return the secrets of an environment, the longest first, also as a URL or JSON writes them."""
    plain: set[str] = set()
    for name, value in variables:
        plain |= {value.strip()} if name in KEYS else {found[1] for found in PASSWORD.finditer(value)}
    known = {form for secret in plain for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
    return tuple(sorted((secret for secret in known if len(secret) >= LENGTH_MIN), key=lambda one: (-len(one), one)))


def _without(text: str, secret: str) -> str:
    """Return a text without a secret, nor a piece of one that was cut off at either end."""
    if len(text) < min(len(secret), PIECE):
        return text
    text = text.replace(secret, HIDDEN)
    if len(secret) <= PIECE:
        return text
    text = _cut(text, secret)
    return _cut(text[::-1], secret[::-1], HIDDEN[::-1])[::-1] if secret[-PIECE:] in text else text


def _cut(text: str, secret: str, instead: str = HIDDEN) -> str:
    """Replace whatever begins as the secret does, as far as it goes on like it."""
    parts, done = [], 0
    while (found := text.find(secret[:PIECE], done)) >= 0:
        pairs = zip(text[found : found + len(secret)], secret, strict=False)
        length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        parts += [text[done:found], instead]
        done = found + length
    return "".join((*parts, text[done:]))


def pattern_fault(pattern: str) -> str | None:
    """Say why a regular expression is none to look for secrets with; None where it is one.

    It has to match something, and at most so much, in at most so many ways: then no text can make it slow.
    """
    if not 1 <= len(pattern) <= PATTERN_CHARACTERS_MAX:
        return f"a regular expression of 1 to {PATTERN_CHARACTERS_MAX} characters"
    try:
        re.compile(pattern)
        parsed = import_module("re._parser").parse(pattern)
    except (re.error, RecursionError, OverflowError, FutureWarning) as error:
        return f"a regular expression: {error}"
    least, most = parsed.getwidth()
    if least < 1:
        return "a regular expression that does not match the empty text"
    if most > MATCH_CHARACTERS_MAX:
        return (
            f"a regular expression that matches at most {MATCH_CHARACTERS_MAX} characters, with {{1,64}} in place of +"
        )
    if _ways(parsed) > WAYS_MAX:
        return (
            f"a regular expression that can match one place in fewer ways than {WAYS_MAX}; give its repeats less room"
        )
    return None


def _ways(node: Any) -> int:
    """Return in how many ways a parsed pattern may be tried at one place, about; more than the limit is enough."""
    ways = 1
    for kind, told in node:
        ways *= _ways_of(str(kind), told)
        if ways > WAYS_MAX:
            return ways
    return ways


def _ways_of(kind: str, told: Any) -> int:
    match kind:
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = told
            each = _ways(inner)
            if each == 1:
                return int(most) - int(least) + 1
            if most > DOUBLINGS:
                return WAYS_MAX + 1
            return sum(each**count for count in range(int(least), int(most) + 1))
        case "BRANCH":
            return sum(_ways(one) for one in told[1])
        case "SUBPATTERN":
            return _ways(told[-1])
        case "ASSERT" | "ASSERT_NOT":
            return _ways(told[1])
        case "ATOMIC_GROUP":
            return _ways(told)
        case "GROUPREF" | "GROUPREF_EXISTS":
            return WAYS_MAX + 1
        case _:
            return 1
