"""The check that no test shows a secret, itself checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import leaks

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leaks, "_sources", [lambda: [SECRET]])
    yield
    monkeypatch.undo()


def report(*, section: str = "", failure: str | None = None) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="x",
        location=("x", 0, "x"),
        keywords={},
        outcome="failed" if failure else "passed",
        longrepr=failure,
        when="call",
        sections=[("Captured log call", section)],
    )


def test_a_test_that_logs_a_secret_fails_and_the_secret_is_hidden() -> None:
    shown = report(section=f"DEBUG token {SECRET} seen")
    leaks.check(shown)
    assert shown.outcome == "failed"
    assert "Captured log call" in str(shown.longrepr)
    assert leaks.find(str(shown.longrepr) + str(shown.sections)) == []


def test_a_test_that_logs_none_passes() -> None:
    shown = report(section="DEBUG nothing of interest")
    leaks.check(shown)
    assert shown.outcome == "passed"
    assert shown.longrepr is None


def test_the_traceback_of_a_failed_test_is_cleaned() -> None:
    shown = report(failure=f"password = '{SECRET}'")
    leaks.check(shown)
    assert shown.outcome == "failed"
    assert leaks.HIDDEN in str(shown.longrepr)
    assert SECRET not in str(shown.longrepr)
