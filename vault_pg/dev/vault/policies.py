"""Policies: which capability a token has on a path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vault_pg.dev.vault.messages import Refused

CAPABILITIES = frozenset({"create", "read", "update", "delete", "list", "sudo", "deny", "patch"})
ROOT = "root"
DEFAULT = "default"

DEFAULT_POLICY = """
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/internal/ui/resultant-acl" { capabilities = ["read"] }
path "sys/renew" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "cubbyhole/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/wrapping/wrap" { capabilities = ["update"] }
path "sys/wrapping/lookup" { capabilities = ["update"] }
path "sys/wrapping/unwrap" { capabilities = ["update"] }
path "sys/tools/hash" { capabilities = ["update"] }
path "sys/tools/hash/*" { capabilities = ["update"] }
path "sys/control-group/request" { capabilities = ["update"] }
"""
"""As Vault 1.8 creates it, less the lines on identity, which this server does not have."""

COMMENT = re.compile(r'("(?:[^"\\\n]|\\.)*")|(?:#|//)[^\n]*|/\*.*?\*/', re.DOTALL)
STRINGS = r'"(?:[^"\\]|\\.)*"'
RULE = re.compile(rf"\s*path\s+({STRINGS})\s*\{{\s*capabilities\s*=\s*\[((?:\s*{STRINGS}\s*,?)*)\s*\]\s*\}}\s*")

Rules = Mapping[str, frozenset[str]]


def parse(text: str) -> Rules:
    """Path pattern → capabilities, from JSON or from HCL of the form `path "x" { capabilities = [...] }`.

    Anything else is refused (400): half a policy would be worse than none.
    """
    found = _json(text) if text.lstrip().startswith("{") else _hcl(text)
    for path, capabilities in found.items():
        unknown = capabilities - CAPABILITIES
        if unknown:
            raise Refused(400, f'failed to parse policy: path "{path}": invalid capability "{min(unknown)}"')
    return found


def _json(text: str) -> dict[str, frozenset[str]]:
    try:
        rules = json.loads(text).get("path", {})
        return {path.lstrip("/"): frozenset(rule["capabilities"]) for path, rule in rules.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(400, 'failed to parse policy: this server reads {"path": {"x": {"capabilities": [...]}}}') from None


def _hcl(text: str) -> dict[str, frozenset[str]]:
    bare = COMMENT.sub(lambda match: match.group(1) or "", text)
    rules: dict[str, frozenset[str]] = {}
    position = 0
    while bare[position:].strip():
        rule = RULE.match(bare, position)
        if rule is None:
            raise Refused(
                400, 'failed to parse policy: this server reads path "x" { capabilities = ["read", ...] } and nothing else'
            )
        path = json.loads(rule.group(1)).lstrip("/")
        rules[path] = rules.get(path, frozenset()) | frozenset(json.loads(name) for name in re.findall(STRINGS, rule.group(2)))
        position = rule.end()
    return rules


@dataclass(frozen=True, order=True, slots=True)
class Rank:
    """How specific a pattern is, in the order that Vault documents; the greatest that matches decides."""

    first_wildcard: float
    exact_end: bool
    fewer_segments: int
    length: int
    pattern: str


def rank(pattern: str) -> Rank:
    wildcards = [at for at in (pattern.find("+"), len(pattern) - 1 if pattern.endswith("*") else -1) if at >= 0]
    first = min(wildcards) if wildcards else float("inf")
    return Rank(first, not pattern.endswith("*"), -pattern.count("+"), len(pattern), pattern)


def matches(pattern: str, path: str) -> bool:
    """`+` stands for one segment, `*` at the end for anything."""
    body = pattern.removesuffix("*")
    expression = "/".join("[^/]+" if segment == "+" else re.escape(segment) for segment in body.split("/"))
    return re.fullmatch(expression + (".*" if pattern.endswith("*") else ""), path) is not None


def capabilities(policies: Iterable[Rules], path: str) -> frozenset[str]:
    """What the most specific matching pattern of all policies together allows; empty where nothing does."""
    merged: dict[str, frozenset[str]] = {}
    for rules in policies:
        for pattern, allowed in rules.items():
            merged[pattern] = merged.get(pattern, frozenset()) | allowed
    deciding = [pattern for pattern in merged if matches(pattern, path)]
    if not deciding:
        return frozenset()
    allowed = merged[max(deciding, key=rank)]
    return frozenset() if "deny" in allowed else allowed


class Policies:
    """The policies of a server, by name."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {DEFAULT: DEFAULT_POLICY}
        self._rules: dict[str, Rules] = {DEFAULT: parse(DEFAULT_POLICY)}

    def names(self) -> list[str]:
        return sorted({*self._texts, ROOT})

    def text(self, name: str) -> str:
        if name == ROOT:
            return ""
        if name not in self._texts:
            raise Refused(404)
        return self._texts[name]

    def write(self, name: str, text: str) -> None:
        if name == ROOT:
            raise Refused(400, 'cannot update "root" policy')
        self._rules[name] = parse(text)
        self._texts[name] = text

    def delete(self, name: str) -> None:
        if name in (ROOT, DEFAULT):
            raise Refused(400, f'cannot delete "{name}" policy')
        self._texts.pop(name, None)
        self._rules.pop(name, None)

    def allowed(self, names: Iterable[str], path: str) -> frozenset[str]:
        """The capabilities of a token with policies `names` on `path`; {"root"} for root. Names without a policy give nothing."""
        wanted = list(names)
        if ROOT in wanted:
            return frozenset({ROOT})
        return capabilities((self._rules[name] for name in wanted if name in self._rules), path)
