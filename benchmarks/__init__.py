"""Benchmarks: contenders in the same run, interleaved, so that ratios mean something on any machine.

`python -m benchmarks rotation` measures latency, failures and connections around rotations; `python -m benchmarks checkout` the CPU
time of a checkout; `python -m benchmarks fleet` simulates how evenly a fleet asks Vault. docs/benchmarks.md says how, and what came out.
"""
