"""As much of the `vault` command as examples/provision.sh uses, for machines that have none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import requests

TIMEOUT = 60.0


def call(method: str, path: str, body: dict[str, str] | None = None) -> Any:
    session = requests.Session()
    session.trust_env = False  # a proxy must not be asked for 127.0.0.1
    answer = session.request(
        method,
        f"{os.environ['VAULT_ADDR']}/v1/{path}",
        headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]},
        json=body,
        timeout=TIMEOUT,
    )
    if not answer.ok:
        sys.exit(f"{method} {path}: {answer.status_code} {answer.text}")
    return answer.json() if answer.content else {"data": {}}


def value(text: str) -> str:
    """`-` is standard input, as for the real command."""
    return sys.stdin.read() if text == "-" else text


def fields(arguments: list[str]) -> dict[str, str]:
    return {name: value(text) for name, _, text in (argument.partition("=") for argument in arguments)}


def main(arguments: list[str]) -> None:
    options = [argument for argument in arguments if argument.startswith("-") and argument != "-"]
    field = next((option.partition("=")[2] for option in options if option.startswith("-field=")), None)
    mounts = {"secrets": "sys/mounts", "auth": "sys/auth"}
    match [argument for argument in arguments if argument not in options]:
        case ["secrets" | "auth" as kind, "list"]:
            json.dump(call("GET", mounts[kind])["data"], sys.stdout, indent=2)
        case ["secrets" | "auth" as kind, "enable", plugin]:
            call("POST", f"{mounts[kind]}/{plugin}", {"type": plugin})
        case ["policy", "write", name, source]:
            call("PUT", f"sys/policies/acl/{name}", {"policy": sys.stdin.read() if source == "-" else Path(source).read_text()})
        case ["write", path, *data]:
            answer = call("PUT", path, fields(data))
            if field is not None:
                sys.stdout.write(str(answer["data"][field]))
        case other:
            sys.exit(f"this stand-in for the vault command does not know: {other}")


if __name__ == "__main__":
    main(sys.argv[1:])
