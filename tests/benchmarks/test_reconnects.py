"""The devices of benchmarks.reconnects connect again spread over time, and soon."""

import pytest

from benchmarks import reconnects

DEVICES = 1000


@pytest.mark.parametrize(
    ("scenario", "most", "last"), list(zip(reconnects.SCENARIOS, [45, 110, 50, 110], [5.2, 1.8, 6.1, 181], strict=True))
)
def test_devices_that_are_cut_at_the_same_moment_spread(scenario: reconnects.Scenario, most: int, last: float) -> None:
    steps, back = reconnects.run(scenario, DEVICES, seed=3)
    assert max(steps.values()) <= most
    assert back[0] >= 0.1
    assert back[-1] <= last
    assert len(back) == DEVICES


def test_after_an_outage_few_devices_connect_at_once() -> None:
    steps, _ = reconnects.run(reconnects.SCENARIOS[3], DEVICES, seed=3)
    assert max(count for step, count in steps.items() if step >= 1200) <= 20


def test_the_command_prints_a_histogram_for_each_scenario(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reconnects", "--devices", "50"])
    reconnects.main()
    shown = capsys.readouterr().out
    assert shown.count("connects in 0.1 s") == len(reconnects.SCENARIOS)
    assert shown.count("50 devices, ") == len(reconnects.SCENARIOS)
    assert "a line that cuts every stream after 20 s: connected 95" in shown
