"""hvac, with every request bounded in time and every failure one of our errors."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import hvac
import requests
from hvac.adapters import RawAdapter

from vault_pg.errors import VaultError, VaultUnavailable
from vault_pg.settings import VaultSettings
from vault_pg.vault.answers import Question, late, nonsense, refusal
from vault_pg.vault.faults import FOREIGN, fault, nothing_was_done
from vault_pg.vault.nodes import Nodes, none_answers
from vault_pg.vault.transport import BoundedSession, url_of

OPEN_FIELDS = {"lease_id", "increment"}
"""Body fields that are no secrets; the value of any other is never quoted."""


HTTP_TO_HTTPS = b"Client sent an HTTP request to an HTTPS server"
"""The one answer of Vault's that is no JSON."""

EMPTY = (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT)

SERVE_NOTHING = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.SERVICE_UNAVAILABLE, 472, 473})
"""What nodes answer that serve no requests: not initialised, sealed, a secondary or a standby."""

SHORT = 4
"""Characters below which a body field is no secret, and would only blot out text that has nothing to do with it."""


class PassedOver(Exception):
    """This node can't serve the request, and another may."""

    def __init__(self, failure: VaultUnavailable) -> None:
        self.failure = failure
        super().__init__(failure)


class VaultAdapter(RawAdapter):  # type: ignore[misc]  # hvac has no type hints
    """Answers are dicts (empty for 204); failures are `VaultError`s that have no foreign exception in their chain."""

    deadline: float = float("inf")
    """On `time.monotonic()`: no request begins later, and none lasts longer than that and `grace`."""
    grace: float = 0.0
    """Seconds that an answer is waited for on, though the caller no longer does."""
    most: float = 0.0
    """Seconds that a request has where nothing presses."""
    nodes: Nodes

    def get_login_token(self, response: dict[str, Any]) -> str:
        return str(response["auth"]["client_token"])

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any) -> dict[str, Any]:
        failures: list[VaultUnavailable] = []
        order = self.nodes.order
        for left, address in zip(range(len(order), 0, -1), order, strict=True):
            self.base_uri = url_of(address)
            try:
                answer = self._ask(method, url, headers, left, **kwargs)
            except PassedOver as passed:
                failures.append(passed.failure)
                continue
            except VaultUnavailable:
                self.nodes.failed(address)  # it may have done what it was asked, so no other is asked for the same
                raise
            except VaultError:
                self.nodes.answered(address)
                raise
            self.nodes.answered(address)
            return answer
        raise none_answers(failures)

    def _ask(self, method: str, url: str, headers: dict[str, str] | None, nodes_left: int, **kwargs: Any) -> dict[str, Any]:
        """Ask the node at `base_uri`. Raises PassedOver where it surely did nothing, so that another may be asked."""
        body = kwargs.get("json") or {}
        hidden = [str(value) for name, value in body.items() if name not in OPEN_FIELDS and len(str(value)) >= SHORT]
        question = Question(self.base_uri, method, url.removeprefix("/v1/"), (*hidden, *filter(None, [self.token])))
        timeout = self.deadline - time.monotonic()
        if timeout <= 0:
            raise late(question)
        failure: VaultError
        answer: dict[str, Any] | None = None
        pass_over, in_doubt = False, True
        # A node that is switched off lets no connection come about, and must not take the time of the others.
        kwargs |= {"raise_exception": False, "timeout": (timeout / nodes_left, timeout + self.grace)}
        try:
            with self.session.over_at(self.deadline, self.grace) as cutter:
                response: requests.Response = super().request(method, url, headers=headers, **kwargs)
        except FOREIGN as error:
            failure = fault(question, error, timeout, self.most)
            pass_over = nothing_was_done(error)
        else:
            answer = _json(response)
            if HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES:
                failure = nonsense(question, hopeless=bool(response.content))
            else:
                failure = _refused(question, response, answer)
                pass_over = response.status_code in SERVE_NOTHING
                # Vault's own no is one; a gateway's tells nothing of what Vault has done.
                in_doubt = answer is None and response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
                answer = None
        if answer:
            return answer
        # A connection cut within the headers makes an answer with nothing in it.
        if cutter.over:
            failure = late(question, timeout, self.most)
        elif answer is not None:
            return answer
        if isinstance(failure, VaultUnavailable):
            failure.in_doubt = (in_doubt or cutter.over) and not pass_over and not failure.hopeless
            if pass_over:
                raise PassedOver(failure)
        # Raised out here: in the except block the foreign exception, with URL and token in its texts, would be its context.
        raise failure


def _json(response: requests.Response) -> dict[str, Any] | None:
    """The body as a dict, empty with the statuses that have none; None for anything else."""
    if response.status_code in EMPTY and not response.content:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else None


def _refused(question: Question, response: requests.Response, answer: dict[str, Any] | None) -> VaultError:
    errors = (answer or {}).get("errors")
    said = tuple(str(error) for error in errors) if isinstance(errors, list) else ()
    if answer is None and HTTP_TO_HTTPS in response.content:
        said = (HTTP_TO_HTTPS.decode(),)
    error = refusal(question, response.status_code, said, response.headers)
    # Vault gives its reasons in JSON. A proxy's own 403 or 404 must not pass for a dead token or a lost role.
    foreign = answer is None and not isinstance(error, VaultUnavailable)
    return nonsense(question, response.status_code, hopeless=True) if foreign else error


def connect(settings: VaultSettings, deadline: float, grace: float = 0.0, nodes: Nodes | None = None) -> hvac.Client:
    """A client of its own for one thread, without a token; deadline and grace are VaultAdapter's. `close` its adapter after use.

    `nodes` are those of the settings, shared by many clients so that all know which node answers.

    All that hvac would read from the environment is given explicitly: some of it it reads at import, some never.
    """
    verify: bool | str = True
    if settings.skip_verify:
        verify = False
    elif settings.ca_cert or (settings.ca_path and not settings.ca_cert_bytes):
        verify = str(settings.ca_cert or settings.ca_path)
    cert = None
    if settings.client_cert:
        cert = (str(settings.client_cert), str(settings.client_key)) if settings.client_key else str(settings.client_cert)
    session = BoundedSession(settings.tls_server_name, None if settings.ca_cert else settings.ca_cert_bytes)
    # hvac prefers the session's own wherever that is true.
    session.verify, session.cert = verify, cert
    client = hvac.Client(
        url=url_of(settings.addresses[0]),
        token="",
        cert=cert,
        verify=verify,
        session=session,
        adapter=VaultAdapter,
        namespace=settings.namespace,
    )
    adapter = client.adapter
    adapter.deadline, adapter.grace, adapter.most = deadline, grace, settings.timeout
    adapter.nodes = nodes or Nodes(settings.addresses)
    return client
