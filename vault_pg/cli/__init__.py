"""`vault-pg`, for operators and for trying things out."""

from vault_pg.cli.app import main

__all__ = ["main"]
