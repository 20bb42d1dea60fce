"""A fleet that restarts at once must not come to Vault at once, then or later: a small simulation on the shipped timing functions.

Seeded, so the figures are the same each time. Bins are longer than the benchmark's in the measure that the fleet is smaller, so that
chance alone weighs the same.
"""

from __future__ import annotations

import pytest

from benchmarks.fleet import COUNTED, Job, peaks, requests, simulate
from benchmarks.rules import Kind

SERVICES = 400
EVERY = 120
"""Seconds."""


@pytest.mark.parametrize("seed", ["a", "b"])
def test_a_restarted_fleet_spreads_out_within_one_ttl_and_through_max_ttl(seed: str) -> None:
    bins = simulate(Job("ours", SERVICES, seed), every=EVERY)
    assert max(peaks(bins, COUNTED[""])) < 3.0
    assert requests(bins, COUNTED[""], SERVICES) < 1.8
    assert max(peaks(bins, set(Kind))) < 3.0


def test_a_narrow_window_would_not_pass() -> None:
    """The measure tells: what keeps a fleet bunched is far above the bound."""
    bins = simulate(Job("Vault Secrets Operator (67 to 77 %)", SERVICES, "a"), every=EVERY)
    assert max(peaks(bins, COUNTED[""])) > 4.0
