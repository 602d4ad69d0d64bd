"""During attacks streams are served on time, memory and log stay bounded, and afterwards nothing is left.

The attacks of `python -m benchmarks.abuse` with fewer connections, one after the other on one server, with keepalives
every 0.4 s that may be five times as late as promised. The command measures the figures.
"""

import pytest

from benchmarks.attack_run import MAX_GROWTH_KIB, broken_promises, run_attack, target

pytestmark = pytest.mark.thorough

CONNECTIONS = {
    "slow heads": 500,
    "large heads": 50,
    "header bombs": 20,
    "bad tokens": 100,
    "pipelined /live": 1,
    "unread responses": 50,
    "half bodies": 200,
    "endless bodies": 5,
    "connect and reset": 50,
    "subscribe and reset": 50,
}
STREAMS = 99
PERIOD = 0.4
SECONDS = 1.0
SLACK = 5.0


def test_streams_are_served_on_time_during_attacks() -> None:
    with target(STREAMS, PERIOD, core=None) as server:
        rows = [run_attack(server, name, SECONDS, many) for name, many in CONNECTIONS.items()]
    assert {row["attack"]: sentences for row in rows if (sentences := broken_promises(row, SLACK))} == {}
    assert all(row["attacker"]["opened"] > 0 for row in rows)
    assert rows[-1]["after"]["memory_kib"] - rows[0]["before"]["memory_kib"] < MAX_GROWTH_KIB
