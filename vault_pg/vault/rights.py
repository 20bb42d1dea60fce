"""What the tokens of a session were allowed: that tells a dead one from a missing right where it may not look itself up."""

from __future__ import annotations

from vault_pg.vault.tokens import Tokens


class Rights:
    """A 403 may mean either. A token that could look itself up once, and no longer can, is dead.

    One that never could may just lack that right, as where Vault's policy "default" is not attached: it is dead only where it is
    refused what these tokens were allowed before. While they were never allowed anything nobody can tell, and another login may help.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._allowed: set[str] = set()

    def note(self, path: str) -> None:
        """Vault did what it was asked there."""
        self._allowed.add(path)

    def tell(self, serial: int, path: str) -> bool:
        """Whether a token is dead that is refused there, and when it looks itself up as well."""
        return self._tokens.sees_itself(serial) or not self._allowed or path in self._allowed
