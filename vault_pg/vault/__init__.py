"""The Vault side: a session that logs in, issues, renews and revokes. It knows nothing of pools."""

from vault_pg.vault.session import VaultSession

__all__ = ["VaultSession"]
