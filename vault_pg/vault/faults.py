"""Requests that got no answer: from requests', urllib3's and the system's exceptions to our errors.

None of their texts is passed on: they hold URLs, and headers with the token in them.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from vault_pg.errors import TokenInvalid, VaultError, VaultRefused, VaultUnavailable
from vault_pg.vault.answers import Question, late, origin

FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
"""All that a request over HTTP raises when it fails."""


class UnsafeRedirect(requests.RequestException):
    """Vault redirects from https to http: the token would travel in the clear."""


def fault(question: Question, error: BaseException, timeout: float, most: float = 0.0) -> VaultError:
    """The error that a failed request means. `timeout` (seconds) is what the request had, `most` what it has where nothing presses."""
    vault = question.vault
    if isinstance(error, (requests.exceptions.InvalidHeader, UnicodeError)):
        return TokenInvalid(f"the token for {vault} holds characters that no token has: look for a line break or a quote in it")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)):
        return VaultRefused(f"{vault} has no usable address: it should look like https://vault.example.com:8200")
    if isinstance(error, UnsafeRedirect):
        return VaultUnavailable(f"{vault} redirects to an address without TLS, which is not followed: correct its api_addr")
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return VaultUnavailable(f"{vault} redirects in circles: correct its api_addr, or look at the proxy in front of it")
    if isinstance(error, requests.exceptions.ProxyError):
        return VaultUnavailable(f"the proxy to {vault} does not work: look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    if isinstance(error, (requests.Timeout, TimeoutError)):
        return late(question, timeout, most)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            sentence, hopeless = _tls(vault, cause)
            return VaultUnavailable(sentence, hopeless=hopeless)
    return VaultUnavailable(_broken(question, error))


def nothing_was_done(error: BaseException) -> bool:
    """Vault can't have acted on the request: no connection came about, or one that is not followed or not trusted."""
    if isinstance(error, (UnsafeRedirect, requests.exceptions.TooManyRedirects)):
        return True
    never = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, ssl.SSLCertVerificationError)
    return any(isinstance(cause, never) for cause in _causes(error))


def _tls(vault: str, error: ssl.SSLError) -> tuple[str, bool]:
    """What went wrong, and whether nothing but a changed setting helps."""
    if isinstance(error, ssl.SSLCertVerificationError):
        sentence = (
            f"{vault} shows a certificate that is not trusted ({error.verify_message}): "
            "set VAULT_CACERT to the file of the CA that signed it, or correct the address"
        )
        return sentence, True
    reason = (error.reason or "").replace("_", " ").lower()
    if reason in {"wrong version number", "record layer failure", "http request", "packet length too long", "unknown protocol"}:
        return f"{vault} does not speak TLS: write http:// in its address, or switch TLS on in Vault's listener", True
    if "certificate required" in reason or "handshake failure" in reason:
        return f"{vault} refuses the TLS handshake ({reason}): it may want VAULT_CLIENT_CERT and VAULT_CLIENT_KEY", False
    if "certificate" in reason or "pem" in reason:
        return f"{vault} cannot be asked over TLS ({reason}): look at the files of VAULT_CACERT and VAULT_CLIENT_CERT", False
    return f"{vault} breaks off TLS: {reason or 'it does not say why'}", False


def _broken(question: Question, error: BaseException) -> str:
    vault = question.vault
    request = getattr(error, "request", None)
    asked = origin(str(getattr(request, "url", "") or question.address))
    if asked != origin(question.address):
        vault = f"{vault} points to its leader at {asked}, which"
    for cause in _causes(error):
        if isinstance(cause, (socket.gaierror, urllib3.exceptions.NameResolutionError)):
            return f"{vault} cannot be found: its name does not resolve"
        if isinstance(cause, FileNotFoundError):
            return f"{vault} cannot be asked: {_missing(question, cause)}"
        if isinstance(cause, ConnectionRefusedError):
            return f"{vault} refuses the connection: is it running, and is that its address?"
        if isinstance(cause, (ConnectionError, http.client.HTTPException)):
            return f"{vault} broke off the connection before it had answered {question.path}"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            return f"{vault} cannot be reached: {os.strerror(cause.errno)}"
        if isinstance(cause, OSError) and "TLS" in str(cause) and "path" in str(cause):
            return f"{vault} cannot be asked: the CA or client certificate file in its settings does not exist"
    return f"{vault} answered {question.path} with something that is not HTTP, or broke off"


def _missing(question: Question, error: FileNotFoundError) -> str:
    if urlsplit(question.address).scheme == "http+unix":
        return "there is no such socket (does the agent run?)"
    return f"{error.filename or 'a file'} does not exist"


def _causes(error: BaseException, depth: int = 8) -> Iterator[BaseException]:
    """The exception and all that it wraps: urllib3 keeps them in `reason` and in args, the rest in the chain."""
    yield error
    if depth:
        inner = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
        for cause in inner:
            if isinstance(cause, BaseException) and cause is not error:
                yield from _causes(cause, depth - 1)
