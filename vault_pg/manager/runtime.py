"""The runtime directory, where managers of one user meet his commands: nobody else may look in, or pretend to be a manager."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from vault_pg.errors import EndpointError

OPEN_TO_OTHERS = 0o077

ANOTHER = "set VAULT_PG_RUNTIME_DIR to a directory of its own (one that does not exist is made)"


def runtime_path() -> Path:
    """Where the status sockets of this user are; it need not exist.

    `$VAULT_PG_RUNTIME_DIR`; else `$XDG_RUNTIME_DIR/vault-pg` where that variable names a directory of this user (after `su` or
    `sudo -E` it names another's); else `vault-pg-<uid>` in the temporary directory.
    """
    if chosen := os.environ.get("VAULT_PG_RUNTIME_DIR"):
        return Path(chosen).absolute()
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and _is_own_directory(session):
        return Path(session, "vault-pg")
    return Path(tempfile.gettempdir(), f"vault-pg-{os.getuid()}")


def _is_own_directory(path: str) -> bool:
    try:
        found = Path(path).stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def runtime_dir() -> Path:
    """The runtime directory, made if missing, which lets in nobody but its owner. Raises EndpointError."""
    path = runtime_path()
    os.close(open_private(path, create=True))
    return path


def open_private(path: Path, *, create: bool) -> int:
    """A descriptor of the directory `path`, proved private; the caller closes it.

    The checks look at the opened directory and not at its name, so what is checked is what is used. Raises EndpointError for one
    that is another's, open to others, a symbolic link or no directory: the mode of what was there before is never changed, for it
    may be there for others too (/tmp, say). Raises FileNotFoundError where it does not exist and `create` is false.
    """
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise
        raise EndpointError(f"status directory {path} {_obstacle(path, error, create=create)}: {ANOTHER}") from None
    try:
        _assure_private(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _assure_private(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise EndpointError(f"status directory {path} belongs to the user with id {found.st_uid}: {ANOTHER}")
    if found.st_mode & OPEN_TO_OTHERS:
        raise EndpointError(
            f"status directory {path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): {ANOTHER}, "
            "or chmod 700 this one if nothing else uses it"
        )


def _obstacle(path: Path, error: OSError, *, create: bool) -> str:
    """Why the directory could not be opened or made, as the end of "status directory PATH"."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return f"cannot be {'made' if create else 'opened'}: {error.strerror}"
    # A link at the end of the path is not followed: the system calls it a loop or no directory, as it likes.
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    return f"cannot be opened: {error.strerror}" if stat.S_ISDIR(mode) else "is no directory"
