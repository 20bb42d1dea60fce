"""The sources of credentials: Vault's roles, files, functions."""

from vault_pg.sources.choice import source_for

__all__ = ["source_for"]
