"""The runtime directory, where managers of one user meet his commands: nobody else may look in, or pretend to be a manager."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from vault_pg.errors import EndpointError

OPEN_TO_OTHERS = 0o077


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
    """The runtime directory, made if missing, with nobody but its owner let in. Raises EndpointError."""
    path = runtime_path()
    os.close(open_private(path, create=True))
    return path


def open_private(path: Path, *, create: bool) -> int:
    """A descriptor of the directory `path`, proved private; the caller closes it.

    The checks look at the opened directory and not at its name, so what is checked is what is used. Raises EndpointError for a
    directory that is another's, a symbolic link or no directory; one of ours that is open to others is closed to them. Raises
    FileNotFoundError where it does not exist and `create` is false.
    """
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if create:
            raise EndpointError(_advice(path, "could not be made")) from None
        raise
    except OSError as error:
        # ELOOP or ENOTDIR, as the system likes: a link at the end of the path is neither followed nor a directory.
        reason = "is a symbolic link" if path.is_symlink() else f"could not be opened or made: {error.strerror}"
        raise EndpointError(_advice(path, reason)) from None
    try:
        _assure_private(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _assure_private(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise EndpointError(_advice(path, f"belongs to the user with id {found.st_uid}"))
    if found.st_mode & OPEN_TO_OTHERS:
        try:
            os.fchmod(descriptor, 0o700)
        except OSError as error:
            raise EndpointError(_advice(path, f"is open to other users and can't be closed to them: {error.strerror}")) from None


def _advice(path: Path, reason: str) -> str:
    return f"status directory {path} {reason}; remove it, or set VAULT_PG_RUNTIME_DIR to a directory of your own"
