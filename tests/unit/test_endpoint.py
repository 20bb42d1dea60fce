"""The status socket: who may see it, what it says, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vault_pg.errors import EndpointError
from vault_pg.manager.endpoint import StatusEndpoint
from vault_pg.manager.reader import read_all, survey
from vault_pg.manager.runtime import runtime_dir, runtime_path
from vault_pg.manager.status import Status, VaultStatus

NO_PROCESS = 4194304
"""One more than the highest id that Linux gives to a process."""

STATUS = Status(
    pid=os.getpid(),
    health="healthy",
    started_at=datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
    vault=VaultStatus(address="https://vault:8200", reachable=True, token_remaining_seconds=None),
    databases=(),
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def start(directory: Path) -> None:
    """Start an endpoint there and close it again."""

    async def run() -> None:
        async with StatusEndpoint(lambda: STATUS, directory):
            pass

    asyncio.run(run())


class LargeAnswer:
    """A snapshot that no socket buffer holds; says when it was taken."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.status = STATUS.model_copy(
            update={"vault": VaultStatus(address="x" * 8_000_000, reachable=True, token_remaining_seconds=None)}
        )

    def __call__(self) -> Status:
        self.taken.set()
        return self.status

    @staticmethod
    async def was_cut(reader: socket.socket) -> bool:
        """Whether less than the whole is left to be read."""
        loop, size = asyncio.get_running_loop(), 0
        try:
            while piece := await loop.sock_recv(reader, 4096):
                size += len(piece)
        except ConnectionError:
            return True
        return size < 8_000_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("VAULT_PG_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return monkeypatch


async def test_a_reader_gets_the_snapshot_of_now(directory: Path) -> None:
    pids = iter([1, 2])
    async with StatusEndpoint(lambda: STATUS.model_copy(update={"pid": next(pids)}), directory):
        seen = [(await asyncio.to_thread(read_all, directory))[0].pid for _ in range(2)]

    assert seen == [1, 2]


async def test_only_its_user_can_reach_the_socket_and_nothing_is_left_of_it(directory: Path) -> None:
    endpoint = StatusEndpoint(lambda: STATUS, directory)
    await endpoint.start()
    path = endpoint.path
    assert path is not None
    assert path.parent == directory
    assert names(directory) == [path.name]
    assert path.name.startswith(f"{os.getpid()}-")
    assert (mode(directory), mode(path)) == (0o700, 0o600)

    await endpoint.close()
    await endpoint.close()

    assert names(directory) == []


async def test_several_endpoints_of_one_process_are_all_found(directory: Path) -> None:
    async with (
        StatusEndpoint(lambda: STATUS, directory),
        StatusEndpoint(lambda: STATUS.model_copy(update={"health": "degraded"}), directory),
    ):
        found = await asyncio.to_thread(read_all, directory)

    assert sorted(status.health for status in found) == ["degraded", "healthy"]


async def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 40) / "run"
    async with StatusEndpoint(lambda: STATUS, directory):
        assert await asyncio.to_thread(read_all, directory) == [STATUS]

    assert names(directory) == []


async def test_a_reader_that_takes_nothing_is_cut_off_and_holds_up_nobody(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vault_pg.manager.endpoint.SLOW_READER", 0.0)
    large = LargeAnswer()
    async with StatusEndpoint(large, directory) as endpoint:
        with socket.socket(socket.AF_UNIX) as lazy:
            lazy.setblocking(False)
            await asyncio.get_running_loop().sock_connect(lazy, str(endpoint.path))
            await large.taken.wait()
            assert await large.was_cut(lazy)

            monkeypatch.undo()
            large.status = STATUS
            assert await asyncio.to_thread(read_all, directory) == [STATUS]


async def test_closing_cuts_off_readers_that_are_under_way(directory: Path) -> None:
    large = LargeAnswer()
    endpoint = StatusEndpoint(large, directory)
    await endpoint.start()
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.setblocking(False)
        await asyncio.get_running_loop().sock_connect(lazy, str(endpoint.path))
        await large.taken.wait()

        await asyncio.wait_for(endpoint.close(), timeout=30)

        assert await large.was_cut(lazy)


async def test_a_snapshot_that_fails_is_reported_and_the_next_reader_is_served(directory: Path) -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    answers = [STATUS]

    def snapshot() -> Status:
        if not reported:
            raise ValueError("no")
        return answers.pop()

    async with StatusEndpoint(snapshot, directory):
        first = await asyncio.to_thread(survey, directory)
        second = await asyncio.to_thread(survey, directory)

    assert (first.report.managers, first.mute) == ((), (os.getpid(),))
    assert second.report.managers == (STATUS,)
    assert [context["message"] for context in reported] == ["no status snapshot could be made"]


def test_the_socket_of_a_dead_process_is_removed(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as forgotten:
        forgotten.bind(str(directory / f"{NO_PROCESS}-1.sock"))

    assert read_all(directory) == []
    assert names(directory) == []


def test_what_is_no_socket_of_a_manager_is_left_alone(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "1-1.sock").write_text("not a socket")
    (directory / "notes").write_text("mine")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "other.sock"))

    assert read_all(directory) == []
    assert names(directory) == ["1-1.sock", "notes", "other.sock"]


@pytest.mark.parametrize("answer", [b"", b"{", b'{"pid": 1}', b"HTTP/1.1 200 OK\r\n\r\n", b"\xff" * 50_000])
def test_an_answer_without_sense_is_no_status_but_the_process_is_named(directory: Path, answer: bytes) -> None:
    directory.mkdir(mode=0o700)
    with socket.create_server(str(directory / f"{os.getpid()}-1.sock"), family=socket.AF_UNIX) as server:
        program = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); c, _ = s.accept(); c.sendall(sys.stdin.buffer.read())"
        with subprocess.Popen(
            [sys.executable, "-c", program, str(server.fileno())], stdin=subprocess.PIPE, pass_fds=[server.fileno()]
        ) as speaker:
            assert speaker.stdin is not None
            speaker.stdin.write(answer)
            speaker.stdin.close()
            found = survey(directory, patience=60)

    assert found.report.managers == ()
    assert found.mute == (os.getpid(),)


def test_a_process_that_hangs_is_named_after_the_patience(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(directory / f"{os.getpid()}-1.sock"))
        hung.listen()

        assert survey(directory, patience=0.01).mute == (os.getpid(),)
        assert len(names(directory)) == 1


def test_a_dead_process_whose_socket_a_child_still_holds_counts_as_gone(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(directory / f"{NO_PROCESS}-1.sock"))
        inherited.listen()

        assert survey(directory, patience=0.01).mute == ()


def test_no_directory_means_that_nothing_runs(directory: Path) -> None:
    assert read_all(directory) == []
    assert not directory.exists()


async def test_a_forked_child_leaves_the_socket_of_its_parent(directory: Path) -> None:
    async with StatusEndpoint(lambda: STATUS, directory) as endpoint:
        real = os.getpid()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vault_pg.manager.endpoint.os.getpid", lambda: real + 1)
            child = StatusEndpoint(lambda: STATUS)
            child.__dict__.update(endpoint.__dict__)
            await child.close()

        assert await asyncio.to_thread(read_all, directory) == [STATUS]


@pytest.mark.parametrize("open_to", [0o1777, 0o750, 0o705, 0o701])
def test_a_directory_open_to_others_is_refused_and_left_as_it_is(directory: Path, open_to: int) -> None:
    directory.mkdir()
    directory.chmod(open_to)
    sentence = (
        f"status directory {directory} is open to other users (mode {open_to:04o}): set VAULT_PG_RUNTIME_DIR to a directory of its "
        "own (one that does not exist is made), or chmod 700 this one if nothing else uses it"
    )

    for use in (start, read_all):
        with pytest.raises(EndpointError) as caught:
            use(directory)
        assert str(caught.value) == sentence

    assert mode(directory) == open_to
    assert names(directory) == []


def test_neither_is_the_default_directory_changed(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "vault-pg").mkdir()
    (tmp_path / "vault-pg").chmod(0o755)

    with pytest.raises(EndpointError, match=r"\(mode 0755\)"):
        runtime_dir()

    assert mode(tmp_path / "vault-pg") == 0o755


def test_a_link_in_place_of_the_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    directory.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(EndpointError, match="is a symbolic link: set VAULT_PG_RUNTIME_DIR"):
        start(directory)
    with pytest.raises(EndpointError, match="symbolic link"):
        read_all(directory)
    assert names(tmp_path / "elsewhere") == []


def test_a_directory_of_another_user_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(mode=0o700)
    monkeypatch.setattr("os.geteuid", lambda: directory.stat().st_uid + 1)

    with pytest.raises(EndpointError, match=r"belongs to the user with id \d+"):
        start(directory)
    with pytest.raises(EndpointError, match="belongs to"):
        read_all(directory)


def test_a_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.write_text("")

    for use in (start, read_all):
        with pytest.raises(EndpointError, match=f"status directory {directory} is no directory: set VAULT_PG_RUNTIME_DIR"):
            use(directory)


@pytest.mark.parametrize("where", ["/proc/vault-pg", "/proc/1/vault-pg/deep"])
def test_a_directory_that_cannot_be_made_says_why_and_asks_nobody_to_remove_anything(where: str) -> None:
    with pytest.raises(EndpointError, match=f"status directory {where} cannot be made: .+: set VAULT_PG_RUNTIME_DIR") as caught:
        start(Path(where))

    assert "remove" not in str(caught.value)
    assert read_all(Path(where)) == []


def test_the_chosen_directory_comes_first(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    environment.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "a" / "mine"))

    assert runtime_dir() == tmp_path / "a" / "mine"
    assert mode(tmp_path / "a" / "mine") == 0o700


def test_then_that_of_the_login_session(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("VAULT_PG_RUNTIME_DIR", "")
    environment.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    assert runtime_dir() == tmp_path / "vault-pg"
    assert mode(tmp_path / "vault-pg") == 0o700


def test_another_users_session_is_not_used(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    environment.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)

    assert runtime_path() == tmp_path / f"vault-pg-{tmp_path.stat().st_uid + 1}"


def test_last_a_folder_of_the_user_in_the_temporary_directory(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))

    assert runtime_dir() == tmp_path / f"vault-pg-{os.getuid()}"
    assert mode(tmp_path / f"vault-pg-{os.getuid()}") == 0o700


async def test_who_disowns_the_socket_lets_go_of_it(tmp_path: Path) -> None:
    """A child that held it would make its dead parent look alive: connections would be taken, and never answered."""
    async with StatusEndpoint(lambda: STATUS, tmp_path / "run") as endpoint:
        assert endpoint.path is not None
        endpoint.disown()
        with socket.socket(socket.AF_UNIX) as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(str(endpoint.path))


async def test_an_endpoint_whose_loop_is_closed_leaves_no_socket_behind(tmp_path: Path) -> None:
    endpoint = StatusEndpoint(lambda: STATUS, tmp_path / "run")
    await endpoint.start()
    endpoint.abandon()
    assert names(tmp_path / "run") == []
    await endpoint.close()
