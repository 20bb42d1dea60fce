"""vault_pg: Vault's dynamic PostgreSQL credentials for async Python.

Names are loaded when they are first used, so that `vault-pg --help` and a bare `import vault_pg` load neither hvac nor psycopg.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vault_pg.errors import (
        BackendUnavailable,
        CommitOutcomeUnknown,
        CredentialRejected,
        DatabaseError,
        DatabaseNotFound,
        DatabaseUnavailable,
        LoginFailed,
        MountNotFound,
        NoCredential,
        NotRenewable,
        NotRunning,
        PermissionDenied,
        ProofFailed,
        RoleNotFound,
        SettingsError,
        SourceBroken,
        SourceError,
        TokenInvalid,
        TooSlow,
        VaultError,
        VaultPgError,
        VaultRefused,
        VaultSealed,
        VaultUnavailable,
    )
    from vault_pg.events import (
        ClocksParted,
        CredentialExpired,
        DatabaseRecovered,
        DrainOverdue,
        Event,
        GenerationClosed,
        GenerationRetired,
        IssueUnanswered,
        LeaseCorrected,
        LeaseIssued,
        LeaseLost,
        LeaseRenewed,
        LeaseRevoked,
        LeaseRotated,
        LeasesLeftBehind,
        LoopEnded,
        ManagerStarted,
        ManagerStopped,
        NotificationsMissed,
        PasswordExchanged,
        RenewalFailed,
        RevocationFailed,
        RotationFailed,
        SourceUnreadable,
        StartDelayed,
        StatusUnavailable,
        TaskDied,
        TokenEnding,
        TokenIssued,
        TokenLost,
        TokenRenewalFailed,
        TokenRenewed,
        TokenRevocationFailed,
        TokenRevoked,
        VaultReachable,
        VaultUnreachable,
    )
    from vault_pg.lease import Credential, Ending, Grant, Lease
    from vault_pg.manager.connect import connect
    from vault_pg.manager.manager import LeaseManager
    from vault_pg.manager.registry import get_pool
    from vault_pg.manager.status import Status
    from vault_pg.pool.check import checked
    from vault_pg.pool.drain import Replacement
    from vault_pg.pool.holder import HotSwapPool
    from vault_pg.pool.info import ConnectionInfo
    from vault_pg.pool.notifications import Notifications
    from vault_pg.pool.retirement import Retirement
    from vault_pg.pool.retry import RetryPolicy
    from vault_pg.pool.subscription import Gap
    from vault_pg.settings import (
        AgentAuth,
        AppRoleAuth,
        AwsAuth,
        AzureAuth,
        CallableSource,
        CertAuth,
        CustomAuth,
        DatabaseSettings,
        DynamicSource,
        FileSource,
        GcpAuth,
        JwtAuth,
        KubernetesAuth,
        LdapAuth,
        Settings,
        StaticSource,
        TokenAuth,
        UserpassAuth,
        VaultSettings,
    )
    from vault_pg.source import CredentialSource
    from vault_pg.version import __version__

_ERRORS = (
    "BackendUnavailable", "CommitOutcomeUnknown", "CredentialRejected", "DatabaseError", "DatabaseNotFound", "DatabaseUnavailable",
    "LoginFailed", "MountNotFound", "NoCredential", "NotRenewable", "NotRunning", "PermissionDenied", "ProofFailed", "RoleNotFound",
    "SettingsError", "SourceBroken", "SourceError", "TokenInvalid", "TooSlow", "VaultError", "VaultPgError", "VaultRefused", "VaultSealed",
    "VaultUnavailable",
)  # fmt: skip
_EVENTS = (
    "ClocksParted", "CredentialExpired", "DatabaseRecovered", "DrainOverdue", "Event", "GenerationClosed", "GenerationRetired",
    "IssueUnanswered", "LeaseCorrected", "LeaseIssued", "LeaseLost", "LeaseRenewed", "LeaseRevoked", "LeaseRotated",
    "LoopEnded", "ManagerStarted", "ManagerStopped", "NotificationsMissed",
    "PasswordExchanged", "RenewalFailed", "SourceUnreadable",
    "RevocationFailed", "RotationFailed", "StatusUnavailable", "TaskDied", "TokenIssued", "TokenLost", "TokenRenewalFailed",
    "TokenEnding", "TokenRenewed", "TokenRevocationFailed", "TokenRevoked", "LeasesLeftBehind", "StartDelayed",
    "VaultReachable", "VaultUnreachable",
)  # fmt: skip
_SETTINGS = (
    "AgentAuth", "AppRoleAuth", "AwsAuth", "AzureAuth", "CallableSource", "CertAuth", "CustomAuth", "DatabaseSettings",
    "DynamicSource", "FileSource", "GcpAuth", "JwtAuth", "KubernetesAuth", "LdapAuth", "Settings", "StaticSource", "TokenAuth",
    "UserpassAuth", "VaultSettings",
)  # fmt: skip
_HOME = {
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(_EVENTS, "events"),
    **dict.fromkeys(_SETTINGS, "settings"),
    **dict.fromkeys(("Credential", "Ending", "Grant", "Lease"), "lease"),
    "ConnectionInfo": "pool.info",
    "CredentialSource": "source",
    "Gap": "pool.subscription",
    "HotSwapPool": "pool.holder",
    "LeaseManager": "manager.manager",
    "Notifications": "pool.notifications",
    "Replacement": "pool.drain",
    "Retirement": "pool.retirement",
    "RetryPolicy": "pool.retry",
    "Status": "manager.status",
    "__version__": "version",
    "checked": "pool.check",
    "connect": "manager.connect",
    "get_pool": "manager.registry",
}

__all__ = [
    "AgentAuth",
    "AppRoleAuth",
    "AwsAuth",
    "AzureAuth",
    "BackendUnavailable",
    "CallableSource",
    "CertAuth",
    "ClocksParted",
    "CommitOutcomeUnknown",
    "ConnectionInfo",
    "Credential",
    "CredentialExpired",
    "CredentialRejected",
    "CredentialSource",
    "CustomAuth",
    "DatabaseError",
    "DatabaseNotFound",
    "DatabaseRecovered",
    "DatabaseSettings",
    "DatabaseUnavailable",
    "DrainOverdue",
    "DynamicSource",
    "Ending",
    "Event",
    "FileSource",
    "Gap",
    "GcpAuth",
    "GenerationClosed",
    "GenerationRetired",
    "Grant",
    "HotSwapPool",
    "IssueUnanswered",
    "JwtAuth",
    "KubernetesAuth",
    "LdapAuth",
    "Lease",
    "LeaseCorrected",
    "LeaseIssued",
    "LeaseLost",
    "LeaseManager",
    "LeaseRenewed",
    "LeaseRevoked",
    "LeaseRotated",
    "LeasesLeftBehind",
    "LoginFailed",
    "LoopEnded",
    "ManagerStarted",
    "ManagerStopped",
    "MountNotFound",
    "NoCredential",
    "NotRenewable",
    "NotRunning",
    "Notifications",
    "NotificationsMissed",
    "PasswordExchanged",
    "PermissionDenied",
    "ProofFailed",
    "RenewalFailed",
    "Replacement",
    "Retirement",
    "RetryPolicy",
    "RevocationFailed",
    "RoleNotFound",
    "RotationFailed",
    "Settings",
    "SettingsError",
    "SourceBroken",
    "SourceError",
    "SourceUnreadable",
    "StartDelayed",
    "StaticSource",
    "Status",
    "StatusUnavailable",
    "TaskDied",
    "TokenAuth",
    "TokenEnding",
    "TokenInvalid",
    "TokenIssued",
    "TokenLost",
    "TokenRenewalFailed",
    "TokenRenewed",
    "TokenRevocationFailed",
    "TokenRevoked",
    "TooSlow",
    "UserpassAuth",
    "VaultError",
    "VaultPgError",
    "VaultReachable",
    "VaultRefused",
    "VaultSealed",
    "VaultSettings",
    "VaultUnavailable",
    "VaultUnreachable",
    "__version__",
    "checked",
    "connect",
    "get_pool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
