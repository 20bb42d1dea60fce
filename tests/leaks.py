"""No test may print or log a secret: what the servers handed out is looked for in all that pytest captured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pytest

HIDDEN = "<a secret>"

_sources: list[Callable[[], Collection[str]]] = []


@contextmanager
def watched(source: Callable[[], Collection[str]]) -> Iterator[None]:
    """Look for the secrets that `source` knows, until the end of the session: a log may come late."""
    _sources.append(source)
    yield


def secrets() -> frozenset[str]:
    return frozenset(secret for source in _sources for secret in source() if secret)


def find(text: str) -> list[str]:
    """The secrets in `text`."""
    return [secret for secret in secrets() if secret in text]


def hide(text: str) -> str:
    for secret in find(text):
        text = text.replace(secret, HIDDEN)
    return text


def check(report: pytest.TestReport) -> None:
    """Fail the report of a test that showed a secret, and take the secret out of it."""
    leaking = [title for title, text in report.sections if find(text)]
    # The frames of a test that failed for another reason may hold secrets of their own; these are only taken out.
    if report.longrepr is not None and find(str(report.longrepr)):
        report.longrepr = hide(str(report.longrepr))
    if not leaking:
        return
    report.sections = [(title, hide(text)) for title, text in report.sections]
    report.outcome = "failed"
    report.longrepr = f"a password or token stands in: {', '.join(leaking)}\n{report.longrepr or ''}"
