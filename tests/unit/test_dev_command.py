"""`vault-pg dev`: how it ends, with a command and without."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vault_pg.cli import dev

KILLED = ["/bin/sh", "-c", "kill -TERM $$"]


@pytest.mark.parametrize(("came", "code"), [([signal.SIGINT], 130), ([signal.SIGHUP, signal.SIGTERM], 129), ([], 143)])
def test_a_command_that_dies_of_a_signal_has_the_exit_code_of_the_one_that_came_to_us(came: list[int], code: int) -> None:
    assert dev.attend(KILLED, dict(os.environ), came) == code


def test_a_command_that_ends_by_itself_keeps_its_exit_code() -> None:
    assert dev.attend(["/bin/sh", "-c", "exit 7"], dict(os.environ), [signal.SIGINT]) == 7


@pytest.mark.parametrize(("command", "code"), [(["true"], 130), ([], 0)])
def test_a_signal_while_the_servers_start_means_that_no_command_has_run(
    command: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def starting(**_: int) -> Iterator[None]:
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(dev, "servers", starting)
    assert dev.run(command, auth="token", ttl=60, max_ttl=60, port=0, as_json=False) == code
