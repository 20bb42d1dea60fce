"""What a cloud tells a machine about itself, over HTTP on an address that only the machine reaches."""

from __future__ import annotations

import time
from collections.abc import Mapping

import requests

from vault_pg.errors import VaultUnavailable
from vault_pg.vault.answers import origin
from vault_pg.vault.faults import FOREIGN
from vault_pg.vault.transport import BoundedSession


def fetch(cloud: str, url: str, headers: Mapping[str, str], query: Mapping[str, str], deadline: float) -> str:
    """The text of the answer to one request, over by `deadline` (on `time.monotonic()`). VaultUnavailable where there is none.

    No proxy is asked, and no redirect followed: such an answer would not be the machine's own.
    """
    why = ""
    with BoundedSession() as session:
        session.trust_env = False
        timeout = max(0.1, deadline - time.monotonic())
        try:
            with session.over_at(deadline):
                response = session.get(url, headers=dict(headers), params=query, timeout=timeout, allow_redirects=False)
        except FOREIGN:
            why = "does not answer (does this run on one of its machines?)"
        else:
            if response.status_code == requests.codes.ok:
                return response.text
            why = f"answers with status {response.status_code}: has the machine an identity?"
    raise VaultUnavailable(f"the {cloud} login cannot be made: the metadata service at {origin(url)} {why}")
