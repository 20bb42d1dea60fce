"""What can go wrong in the embedded default."""

from __future__ import annotations

from vault_pg.errors import VaultPgError


class DevError(VaultPgError):
    """The throw-away PostgreSQL or the dev Vault cannot run here; the message says why and what to do."""
