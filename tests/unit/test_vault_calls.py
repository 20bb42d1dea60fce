"""Who owns the result of a call whose caller went away. Real threads, held by gates: nothing here waits for time to pass."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from vault_pg.errors import NotRunning, VaultError, VaultUnavailable
from vault_pg.settings import TokenAuth, VaultSettings
from vault_pg.vault import calls
from vault_pg.vault.calls import ThreadCalls

LONG = 60.0
TOKEN = SecretStr("hvs.calls")


class Gate:
    """Work that waits to be let through, and knows what became of its result."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.undone = threading.Event()
        self.undone_with: list[tuple[str, str]] = []

    def work(self, client: Any) -> str:
        self.entered.set()
        assert self.open.wait(LONG)
        return f"a lease asked for with {len(client.token)} letters"

    def undo(self, client: Any, result: str) -> None:
        self.undone_with.append((client.token, result))
        self.undone.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def thread_calls() -> ThreadCalls:
    # Nobody is ever asked: making a client opens no connection.
    return ThreadCalls(VaultSettings(address="http://127.0.0.1:1", auth=TokenAuth(token=TOKEN)))


async def reached(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, LONG)


async def test_a_result_is_handed_over_and_not_undone(thread_calls: ThreadCalls, gate: Gate) -> None:
    gate.open.set()
    result = await thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=gate.undo)
    await thread_calls.close(timeout=LONG)
    assert result == "a lease asked for with 9 letters"
    assert not gate.undone.is_set()


async def test_an_error_is_raised_without_the_frames_that_hold_the_token(thread_calls: ThreadCalls) -> None:
    def fail(_: object) -> None:
        raise VaultError("no")

    with pytest.raises(VaultError, match="no") as caught:
        await thread_calls.call(fail, token=TOKEN, timeout=LONG)
    await thread_calls.close(timeout=LONG)
    assert "fail" not in [entry.name for entry in caught.traceback]


async def test_the_thread_undoes_what_a_cancelled_caller_asked_for(thread_calls: ThreadCalls, gate: Gate) -> None:
    task = asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=gate.undo))
    await reached(gate.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not gate.undone.is_set()
    gate.open.set()
    await thread_calls.close(timeout=LONG)
    assert gate.undone_with == [("hvs.calls", "a lease asked for with 9 letters")]


async def test_the_thread_undoes_what_came_too_late(thread_calls: ThreadCalls, gate: Gate) -> None:
    with pytest.raises(VaultUnavailable, match="did not answer within"):
        await thread_calls.call(gate.work, token=TOKEN, timeout=0.01, undo=gate.undo)
    gate.open.set()
    if gate.entered.is_set():  # else the thread began too late, and never asked
        await reached(gate.undone)
    await thread_calls.close(timeout=LONG)


async def test_a_result_that_arrived_as_its_caller_was_cancelled_is_undone_before_the_end(
    thread_calls: ThreadCalls, gate: Gate
) -> None:
    task = asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=gate.undo))
    await reached(gate.entered)
    gate.open.set()
    for thread in thread_calls._running():  # the loop stands still, so the caller has not seen the result yet
        thread.join()
    task.cancel()
    await thread_calls.close(timeout=LONG)
    assert task.cancelled()
    assert gate.undone_with == [("hvs.calls", "a lease asked for with 9 letters")]


def test_the_thread_undoes_even_when_the_loop_is_gone(thread_calls: ThreadCalls, gate: Gate) -> None:
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Task[str]:
        task = asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=gate.undo))
        await reached(gate.entered)
        return task

    task = loop.run_until_complete(start())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gate.open.set()
    assert gate.undone.wait(LONG)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # left pending on purpose; asyncio would log that


async def test_a_caller_that_went_before_the_thread_began_has_nothing_asked(thread_calls: ThreadCalls, gate: Gate) -> None:
    gate.open.set()
    handover = calls._Handover[str]()
    assert handover.claim() is None
    thread_calls._serve(calls._Job(gate.work, gate.undo, TOKEN, LONG), handover, time.monotonic() + LONG)
    assert not gate.entered.is_set()


async def test_a_call_does_not_queue_behind_others_that_vault_swallows(thread_calls: ThreadCalls, gate: Gate) -> None:
    held = [asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG)) for _ in range(20)]
    assert await thread_calls.call(lambda _: "answered", token=TOKEN, timeout=LONG) == "answered"
    assert not any(task.done() for task in held)
    gate.open.set()
    await asyncio.gather(*held)
    await thread_calls.close(timeout=LONG)
    assert thread_calls._running() == []


async def test_a_system_without_threads_is_trouble_that_may_pass(
    thread_calls: ThreadCalls, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(VaultUnavailable, match="no more threads"):
            await thread_calls.call(gate.work, token=TOKEN, timeout=LONG)
    await thread_calls.close(timeout=LONG)


async def test_an_undo_that_fails_is_logged_and_told(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_client: object, _result: str) -> None:
        raise VaultUnavailable("Vault is away")

    told: list[SecretStr] = []
    thread_calls = ThreadCalls(
        VaultSettings(address="http://127.0.0.1:1", auth=TokenAuth(token=TOKEN)), lambda token, _: told.append(token)
    )
    task = asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=refuse))
    await reached(gate.entered)
    task.cancel()
    gate.open.set()
    await thread_calls.close(timeout=LONG)
    assert "Vault is away" in caplog.text
    assert "hvs.calls" not in caplog.text
    await asyncio.sleep(0)
    assert told == [TOKEN]


@pytest.mark.parametrize(
    ("error", "lost"), [(VaultUnavailable("broken off", in_doubt=True), True), (VaultUnavailable("sealed"), False)]
)
async def test_an_answer_lost_to_a_caller_that_is_gone_is_told(gate: Gate, error: VaultUnavailable, lost: bool) -> None:
    told: list[tuple[SecretStr, VaultError]] = []
    thread_calls = ThreadCalls(
        VaultSettings(address="http://127.0.0.1:1", auth=TokenAuth(token=TOKEN)), lambda *about: told.append(about)
    )

    def fail(client: Any) -> str:
        gate.work(client)
        raise error

    task = asyncio.create_task(thread_calls.call(fail, token=TOKEN, timeout=LONG, undo=gate.undo))
    await reached(gate.entered)
    task.cancel()
    await asyncio.wait([task])
    gate.open.set()
    await thread_calls.close(timeout=LONG)
    await asyncio.sleep(0)
    assert told == ([(TOKEN, error)] if lost else [])


async def test_a_caller_cancelled_as_its_answer_is_lost_has_that_told(gate: Gate) -> None:
    told: list[SecretStr] = []
    thread_calls = ThreadCalls(
        VaultSettings(address="http://127.0.0.1:1", auth=TokenAuth(token=TOKEN)), lambda token, _: told.append(token)
    )

    def fail(client: Any) -> str:
        gate.work(client)
        raise VaultUnavailable("broken off", in_doubt=True)

    task = asyncio.create_task(thread_calls.call(fail, token=TOKEN, timeout=LONG, undo=gate.undo))
    await reached(gate.entered)
    gate.open.set()
    for thread in thread_calls._running():  # the loop stands still, so the caller has not seen the failure yet
        thread.join()
    task.cancel()
    await thread_calls.close(timeout=LONG)
    assert task.cancelled()
    assert told == [TOKEN]


async def test_a_call_that_is_given_up_is_in_doubt_unless_its_thread_undoes_it(thread_calls: ThreadCalls, gate: Gate) -> None:
    for undo in (None, gate.undo):
        with pytest.raises(VaultUnavailable) as caught:
            await thread_calls.call(gate.work, token=TOKEN, timeout=0.01, undo=undo)
        assert caught.value.in_doubt is (undo is None)
    gate.open.set()
    await thread_calls.close(timeout=LONG)


async def test_closing_does_not_wait_longer_than_it_may(thread_calls: ThreadCalls, gate: Gate) -> None:
    task = asyncio.create_task(thread_calls.call(gate.work, token=TOKEN, timeout=LONG, undo=gate.undo))
    await reached(gate.entered)
    await thread_calls.close(timeout=0.01)
    assert not task.done()
    with pytest.raises(NotRunning):
        await thread_calls.call(gate.work, token=TOKEN, timeout=LONG)
    gate.open.set()
    assert (await task).startswith("a lease")


async def test_each_call_has_a_client_of_its_own_without_the_environments_token(
    thread_calls: ThreadCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "hvs.environment")
    monkeypatch.setenv("VAULT_ADDR", "http://elsewhere:8200")
    seen: list[Any] = []
    look: Callable[[Any], None] = seen.append
    for _ in range(2):
        await thread_calls.call(look, token=None, timeout=LONG)
    await thread_calls.close(timeout=LONG)
    assert seen[0] is not seen[1]
    assert [client.token for client in seen] == ["", ""]
    assert seen[0].url == "http://127.0.0.1:1"
