"""Each event in words: what happened, what was decided and why, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ledger import events as e
from ledger.cli import output
from ledger.cli.work.verdict_words import judged_words, verdict_lines
from ledger.cli.work.words import clock, plural
from ledger.executor.budgets import in_usd
from ledger.parts import ByRule, ByScore, Decision, Outcome, Why
from ledger.policy import Step
from ledger.system_events import BreakerClosed, BreakerOpened, PriceBookPublished

__all__ = ["cost_of", "event_lines"]

NAMED: Final = 3
"""Failures that are named; the others are counted."""

Texts = Mapping[str, str]
Openings = Mapping[int, BreakerOpened]


def event_lines(event: e.Event, texts: Texts, openings: Openings | None = None) -> list[str]:
    """Say what an event is, in one line or more.

    Args:
        event: the event.
        texts: its task's, by slot.
        openings: of breakers that its task saw open, by position.
    """
    match event:
        case e.TaskSubmitted():
            return _submitted(event)
        case e.AttemptStarted():
            return _started(event)
        case e.AttemptSucceeded():
            return [f"attempt {event.attempt} succeeded {_figures(event)}", *_details(event)]
        case e.AttemptFailed():
            status = "" if event.status_code is None else f" ({event.status_code})"
            head = f"attempt {event.attempt} failed: {event.error_type}{status} {_figures(event)}"
            return [head, *_details(event), *_message(event.attempt, texts)]
        case e.AttemptOrphaned():
            what = f"attempt {event.attempt} orphaned ({event.cause}): what it did is unknown, "
            return [what + _exposure(event.exposure_nano_usd)]
        case e.AttemptSettled():
            return [
                f"attempt {event.attempt} settled ({event.via}): {event.outcome} {_figures(event)}",
                *_details(event),
            ]
        case e.ValidationPassed() | e.ValidationFailed():
            return verdict_lines(event, texts)
        case e.ValidationErrored():
            return [f"no verdict could be had on {judged_words(event)}: {event.error_type}; that is never a pass"]
        case e.PayloadErased():
            return [f"the text {event.slot} was erased: {output.visible(event.reason)}"]
        case BreakerOpened():
            return _opened(event)
        case BreakerClosed():
            return [f"{event.provider} {event.model} is called again: event {event.trial_event_id} went through"]
        case PriceBookPublished():
            return [f"prices of {output.visible(f'{event.source} {event.source_version}')}, book {event.price_book}"]
        case Decision():
            return [*_decided(event), *_brakes(event, openings or {}), *_budgets(event)]
        case _:
            return [event.TYPE]


def _submitted(event: e.TaskSubmitted) -> list[str]:
    why = _why(event.why)
    steps = event.judge if event.kind == "validation" else event.route
    policy = event.policy
    waits = f"waits {policy.backoff_initial_ms:,} ms, times {policy.backoff_multiplier_ppm / 1_000_000:g} each time"
    limit = f"output limit {event.max_tokens:,} tokens"
    if not steps:
        return [f"a person judges attempt {event.judged_attempt} of task {event.judged_task_id}"]
    rules = (
        f"retry-after up to {policy.retry_after_max_ms:,} ms",
        f"on_unknown {policy.on_unknown}",
        f"on_truncated {policy.on_truncated}",
        f"{policy.max_orphans} orphans in a row",
    )
    lines = [
        f"decided route: {event.kind} on {event.tier}, {why}",
        ", then ".join(_step(step) for step in steps),
        f"{waits}, at most {policy.backoff_max_ms:,} ms, ± {policy.jitter_ppm / 10_000:g} %; {limit}",
        f"policy {event.policy_hash[:12]}: {', '.join(rules)}",
    ]
    if event.route and event.judge:
        up = ", then ".join(step.tier for step in event.ladder) or "nowhere: no tier is above"
        lines.append(f"judged by {', '.join(_step(step) for step in event.judge)}; a verdict may lead up to {up}")
    if event.judged_task_id is not None:
        lines.append(f"judges attempt {event.judged_attempt} of task {event.judged_task_id}")
    return lines


def _why(why: Why) -> str:
    match why:
        case ByRule():
            return output.visible(f"by the rule {why.rule}")
        case ByScore():
            return output.visible(f"by a score of {why.score_ppm / 1_000_000:g} from {why.scorer}")
        case _:
            return "the caller asked for it"


def _step(step: Step) -> str:
    tries = "1 try" if step.tries == 1 else f"{step.tries} tries"
    return f"{step.tier} ({step.provider} {step.model}, {tries}, {step.timeout_ms / 1000:g} s each)"


def _started(event: e.AttemptStarted) -> list[str]:
    to_do = "" if event.purpose == "generate" else " to judge"
    head = f"attempt {event.attempt} started{to_do}: {event.tier}, {event.provider} {event.request_model}"
    bound = (
        "" if event.upper_bound_nano_usd is None else f", at most {event.upper_bound_nano_usd / output.NANO:.6f} USD"
    )
    prefix = "" if event.prompt_prefix is None else f", a {event.prompt_prefix} put before the prompt"
    return [f"{head}, until {clock(event.deadline_ms)}{bound}{prefix}"]


def _figures(event: Outcome) -> str:
    after = "" if event.latency_ms is None else f"after {event.latency_ms:,} ms, "
    return f"{after}{_tokens(event)}, {cost_of(event)}"


def _tokens(event: Outcome) -> str:
    if event.usage_source == "not_billed":
        return "not billed"
    if not event.usage:
        return "tokens unknown"
    inputs = [
        None
        if row.input_uncached_tokens is None
        else row.input_uncached_tokens
        + sum(count or 0 for count in (row.cache_read_tokens, row.cache_write_5m_tokens, row.cache_write_1h_tokens))
        for row in event.usage
    ]
    outputs = [row.output_tokens for row in event.usage]
    return f"{_sum(inputs)} tokens in, {_sum(outputs)} out"


def _sum(counts: list[int | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if len(known) == len(counts) else "unknown"


def cost_of(event: Outcome) -> str:
    """Say what an attempt cost; unknown is never shown as nothing."""
    if event.cost_nano_usd is None:
        return _exposure(event.exposure_nano_usd)
    return output.money(event.cost_nano_usd, 0)


def _exposure(exposure_nano_usd: int | None) -> str:
    if exposure_nano_usd is None:
        return "cost unknown, no price is known"
    return f"cost unknown, at most {exposure_nano_usd / output.NANO:.6f} USD"


def _details(event: Outcome) -> list[str]:
    """Say who answered, and how the provider names it."""
    reasoning = sum(row.reasoning_tokens or 0 for row in event.usage)
    parts = [
        f"served by {event.served_model}" if event.served_model else "",
        f"finish reason {event.finish_reason}" if event.finish_reason else "",
        f"request {event.request_id}" if event.request_id else "",
        f"{reasoning:,} of the tokens out for thinking" if reasoning else "",
        f"{event.provider_requests:,} requests at the provider" if (event.provider_requests or 0) > 1 else "",
    ]
    told = ", ".join(part for part in parts if part)
    return [output.visible(told)] if told else []


def _message(attempt: int, texts: Texts) -> list[str]:
    message = texts.get(f"message/{attempt}")
    return [] if message is None else [f"“{output.visible(output.shortened(message, 300))}”"]


def _brakes(event: Decision, openings: Openings) -> list[str]:
    """Say what was seen of breakers: why and until when each was open."""
    lines = []
    for seen in event.inputs.brakes:
        opened = openings.get(seen.position)
        if opened is None:
            lines.append(f"saw {seen.provider} {seen.model} left alone until {clock(seen.until_ms)}")
        else:
            lines += _opened(opened)
    return [output.visible(line) for line in lines]


def _budgets(event: Decision) -> list[str]:
    """Say what was seen of caps, in USD."""
    lines = []
    for seen in event.inputs.budgets:
        unknown = "an amount that nobody knows" if seen.unknown is None else in_usd(seen.unknown)
        asked = "nobody knows how much" if seen.asked is None else in_usd(seen.asked)
        stands = f"{in_usd(seen.settled)} spent, {unknown} of unknown cost, {in_usd(seen.reserved)} reserved"
        lines.append(f"saw the cap {seen.cap} of {in_usd(seen.limit)} USD: {stands}, {asked} asked for")
    return [output.visible(line) for line in lines]


def _opened(event: BreakerOpened) -> list[str]:
    why = {
        "failures": f"{plural(len(event.failures), 'failure')} in a row",
        "retry_after": "the provider asked for it (retry-after)",
        "trial_failed": "a trial call failed",
    }[event.cause]
    head = (
        f"{event.provider} {event.model} is left alone until {clock(event.until_ms)}, for {event.open_ms:,} ms: {why}"
    )
    more = "" if len(event.failures) <= NAMED else f" and {len(event.failures) - NAMED:,} more"
    return [head, f"failed event{'' if len(event.failures) == 1 else 's'} {', '.join(event.failures[:NAMED])}{more}"]


def _decided(event: e.Event) -> list[str]:
    """Say what was chosen, from what reason by which rule."""
    if not isinstance(event, Decision):
        return []
    because = f"because of {event.reason} (rule {event.rule})"
    match event:
        case e.RetryScheduled():
            wait = f"waits {event.wait_ms:,} ms, not before {clock(event.not_before_ms)}"
            return [f"decided retry: attempt {event.next_attempt} on {event.tier}, {because}", wait]
        case e.EscalationSelected():
            verdict = f"by the verdict of attempt {event.judge_attempt} on attempt {event.judged_attempt}"
            return [f"decided escalate: from {event.from_tier} to {event.to_tier}, {verdict}, {because}"]
        case e.FallbackSelected():
            return [f"decided {event.decision}: from {event.from_tier} to {event.to_tier}, {because}"]
        case e.TaskSucceeded():
            judged = {True: ", accepted", False: ", not accepted", None: ""}[event.accepted]
            what = "a person's verdict" if event.attempt is None else f"the answer of attempt {event.attempt}"
            rule = f" (rule {event.rule})" if event.accepted is None else f", {because}"
            return [f"decided succeed: {what}{judged}{rule}"]
        case e.TaskFailed():
            return [f"decided {event.decision}: the task fails with {event.error_type} (rule {event.rule})"]
        case _:
            return [f"decided {event.decision}: {because}"]
