"""What was measured on, and with which versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psycopg
import psycopg_pool

import vault_pg


def machine() -> dict[str, object]:
    """CPU, cores that may be used, memory, system, and how busy it is (the benchmark included)."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions(postgresql: str | None) -> dict[str, str]:
    """None: no server was needed."""
    libpq = psycopg.pq.version()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "vault_pg": vault_pg.__version__,
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__}, libpq {libpq // 10000}.{libpq % 10000})",
        "psycopg_pool": psycopg_pool.__version__,
    } | ({} if postgresql is None else {"postgresql": postgresql})


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
