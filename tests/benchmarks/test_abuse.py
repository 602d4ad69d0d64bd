"""Whatever strangers send: streams are served on time, memory and log stay bounded, nothing is left behind.

The attacks of `python -m benchmarks.abuse` in small, one after the other on one server, with keepalives every 0.2 s
that may be five times as late as promised. The figures come from the command.
"""

import pytest

from benchmarks.attack_run import MAX_GROWTH_KIB, broken_promises, run_attack, target

pytestmark = pytest.mark.thorough

CONNECTIONS = {
    "slow heads": 500,
    "fat heads": 50,
    "header bombs": 20,
    "bad tokens": 100,
    "pipelined /live": 1,
    "unread answers": 50,
    "half bodies": 200,
    "endless bodies": 5,
    "connect and reset": 50,
    "subscribe and reset": 50,
}
STREAMS = 99
PERIOD = 0.4
SECONDS = 1.0
SLACK = 5.0


def test_whatever_strangers_send_the_streams_are_served_on_time() -> None:
    with target(STREAMS, PERIOD, core=None) as server:
        rows = [run_attack(server, name, SECONDS, many) for name, many in CONNECTIONS.items()]
    assert {row["attack"]: sentences for row in rows if (sentences := broken_promises(row, SLACK))} == {}
    assert all(row["attacker"]["opened"] > 0 for row in rows)
    assert rows[-1]["after"]["memory_kib"] - rows[0]["before"]["memory_kib"] < MAX_GROWTH_KIB
