"""A small Vault for trials and tests; see `DevVault`."""

from vault_pg.dev.vault.server import DevVault

__all__ = ["DevVault"]
