"""The log: one listener that writes each event by structlog, under the event's own name."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

from vault_pg.events import Event, RenewalFailed, RotationFailed, SourceUnreadable, TokenRenewalFailed
from vault_pg.manager.reason import gist

DECIMALS = 3
"""Of seconds; more than that nobody reads."""

MOST_REASONS = 32
"""Of one failure that are kept apart."""


class Journal:
    """Logs every event as `event=name key=value …` to the logger `vault_pg`; the level is the event's. It configures nothing.

    A failure that goes on is news at its first attempt, its second, its fourth and so on, and when its reason changes: to the same reason
    the first time, the second, the fourth and so on, because reasons may take turns. What is tried in between is logged at DEBUG.

    A program that has not configured structlog gets structlog's events through the standard library's logging, which is silent below
    WARNING until it is configured.
    """

    def __init__(self) -> None:
        self._logger: Any = None
        self._reasons: dict[tuple[str, str], tuple[str, Counter[str]]] = {}

    def __call__(self, event: Event) -> None:
        if self._logger is None:
            self._logger = _logger()
        facts = {field.name: _short(getattr(event, field.name)) for field in dataclasses.fields(event) if field.name != "at"}
        getattr(self._logger, event.level if self._is_news(event) else "debug")(event.name, **facts)

    def _is_news(self, event: Event) -> bool:
        if not isinstance(event, RenewalFailed | RotationFailed | SourceUnreadable | TokenRenewalFailed):
            return True
        key, reason = (event.name, getattr(event, "database", "")), gist(event.error)
        before, turns = self._reasons.get(key, ("", Counter()))
        if event.attempt == 1 or len(turns) > MOST_REASONS:
            turns = Counter()
        turns[reason] += reason != before or not turns
        self._reasons[key] = (reason, turns)
        changed = reason != before and turns[reason].bit_count() == 1
        return changed or event.retry_in_seconds is None or event.attempt.bit_count() == 1


def _short(value: Any) -> Any:
    return round(value, DECIMALS) if isinstance(value, float) else value


def _in_one_line(_logger: Any, _method: str, facts: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Several values with commas between: logfmt has no lists. And none for what there is none of."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in facts.items()
        if value is not None
    }


def _logger() -> Any:
    import structlog  # noqa: PLC0415 - a fifth of a second that a program without a manager need not pay

    if structlog.is_configured():
        return structlog.get_logger("vault_pg")
    import logging  # noqa: PLC0415 - goes with the above

    return structlog.wrap_logger(
        logging.getLogger("vault_pg"),
        processors=[
            structlog.stdlib.filter_by_level,
            _in_one_line,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
