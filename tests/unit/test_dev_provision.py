"""What a role of the dev Vault is refused for before anything is set up."""

from __future__ import annotations

import pytest

from vault_pg.dev import DevError, RoleSpec


def test_a_default_ttl_beyond_max_ttl_is_a_mistake() -> None:
    with pytest.raises(DevError, match=r"^a role's default_ttl is 600 s, more than its max_ttl, 60 s: raise max_ttl or lower"):
        RoleSpec(default_ttl=600, max_ttl=60)


def test_a_max_ttl_of_zero_is_vaults_own() -> None:
    assert RoleSpec(default_ttl=600, max_ttl=0).default_ttl == 600
