"""Builds the SDK's client: one request a call, whatever the SDK would rather do by itself."""

from __future__ import annotations

import contextlib
import functools
import importlib
import urllib.request
import warnings
from typing import TYPE_CHECKING, Literal

from clients.errors import ClientUnready

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic

__all__ = ["ModelDeprecated", "Transport", "build", "load", "refuse_hidden_retries", "warn_if_deprecated"]

Transport = Literal["aiohttp", "httpx"]


class ModelDeprecated(UserWarning):
    """The SDK lists a model as deprecated: it works until the day that the warning names."""


_warned: set[str] = set()


def load(transport: Transport = "httpx") -> None:
    """Import the SDK, which takes about two seconds, and aiohttp if it is asked for; later calls take none.

    Raises:
        ClientUnready: the SDK is not installed.
    """
    try:
        importlib.import_module("anthropic.resources.messages")
    except ImportError as error:
        message = f"the Anthropic SDK cannot be imported ({error}); install it: pip install 'anthropic>=2.12'"
        raise ClientUnready(message, error_type="client_missing") from error
    for name in ("anthropic_bodies", "anthropic_httpx"):
        importlib.import_module(f"clients.{name}")
    if transport == "aiohttp":
        with contextlib.suppress(ImportError):
            importlib.import_module("clients.anthropic_aiohttp")


def build(api_key: str | None, base_url: str | None, transport: Transport = "aiohttp") -> AsyncAnthropic:
    """Make a client that never retries and follows no redirect.

    httpx is taken whatever ``transport`` says where aiohttp cannot be imported, and the SDK's own client where the
    environment names a proxy: what proxies, and the exceptions from them, mean is httpx's to say.

    Raises:
        ClientUnready: the key or the address cannot be used.
    """
    import anthropic  # noqa: PLC0415 - loaded by ``load``, and only when first needed
    import httpx2  # noqa: PLC0415 - comes with the SDK

    from clients.anthropic_bodies import bound  # noqa: PLC0415 - loaded by ``load``

    if not api_key:
        raise ClientUnready("no key for Anthropic: set ANTHROPIC_API_KEY", error_type="authentication")
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        message = "ANTHROPIC_API_KEY holds a blank or a character that no key has; copy it again"
        raise ClientUnready(message, error_type="authentication")
    if base_url and not base_url.lower().startswith(("http://", "https://")):
        # The address may hold a password, so it is not repeated.
        raise ClientUnready("ANTHROPIC_BASE_URL is no http or https address", error_type="not_found")
    # A redirect followed is a second request that nobody recorded, with the key sent to another host.
    make = functools.partial(
        anthropic.DefaultAsyncHttpxClient,
        follow_redirects=False,
        headers={"accept-encoding": "gzip"},
        event_hooks={"response": [bound]},
    )
    own = _own_transport(transport)
    http = make() if own is None else make(transport=own)
    try:
        sdk = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url or None, max_retries=0, http_client=http)
    except httpx2.InvalidURL as error:
        raise ClientUnready("ANTHROPIC_BASE_URL is no address", error_type="not_found") from error
    refuse_hidden_retries(sdk)
    return sdk


def refuse_hidden_retries(sdk: AsyncAnthropic) -> None:
    """Refuse a client that would make calls of which the ledger knows nothing.

    Raises:
        ClientUnready: it retries by itself.
    """
    if sdk.max_retries != 0:
        message = f"the Anthropic client would retry {sdk.max_retries} times by itself; max_retries must be 0"
        raise ClientUnready(message, error_type="other")


def warn_if_deprecated(model: str) -> None:
    """Warn once in this process for a model in the SDK's own table of deprecated ones."""
    from anthropic.resources.messages import DEPRECATED_MODELS  # noqa: PLC0415 - loaded by ``load``

    if model in DEPRECATED_MODELS and model not in _warned:
        _warned.add(model)
        warnings.warn(
            f"{model} is deprecated and ends on {DEPRECATED_MODELS[model]}; choose a newer model",
            ModelDeprecated,
            stacklevel=2,
        )


def _own_transport(transport: Transport) -> httpx2.AsyncBaseTransport | None:
    """Return a transport of ours, or None where the SDK's own has to serve."""
    proxies = urllib.request.getproxies()
    if any(proxies.get(scheme) for scheme in ("http", "https", "all")):
        return None
    from clients.anthropic_httpx import HttpxTransport  # noqa: PLC0415 - loaded by ``load``

    if transport == "httpx":
        return HttpxTransport()
    try:
        from clients.anthropic_aiohttp import AiohttpTransport  # noqa: PLC0415 - loaded by ``load``, if it can be
    except ImportError:
        return HttpxTransport()
    return AiohttpTransport()
