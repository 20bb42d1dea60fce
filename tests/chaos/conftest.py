"""A service in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.servers import Mount

ROOT = Path(__file__).parents[2]


class Service(Protocol):
    """Starts a Python program, as text or as a module's name, with what a service needs in its environment and nothing else."""

    def __call__(self, mount: Mount, program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]: ...


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the status sockets of the test's managers are."""
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started: list[subprocess.Popen[str]] = []

    def run(mount: Mount, program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        login = mount.approle(token_ttl=300)
        known = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "VAULT_PG_RUNTIME_DIR": str(tmp_path / "run"),
            "VAULT_ADDR": mount.server.address,
            "VAULT_PG_AUTH": "approle",
            "VAULT_PG_APPROLE_ROLE_ID": login.role_id,
            "VAULT_PG_APPROLE_SECRET_ID": login.secret_id.get_secret_value(),
            "VAULT_PG_APPROLE_MOUNT": login.mount,
            "VAULT_PG_ROLE": "app",
            "VAULT_PG_CONNINFO": mount.postgres.conninfo(),
            "VAULT_PG_MOUNT": mount.path,
        }
        code = ["-m", program] if program.startswith("tests.") else ["-c", textwrap.dedent(program)]
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *code, *arguments],
            env=known | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
