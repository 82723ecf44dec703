import json
from typing import Any

import pytest

from tests.benchmarks.bench import Check, Figure, by_turns, collect, table


def figure(**changes: Any) -> Figure:
    values: dict[str, Any] = {"figure": "maps", "ours": 2.0, "peer": 10.0, "unit": "s"}
    return Figure(**values | changes)


@pytest.mark.parametrize(
    ("changes", "ratio", "target", "met"),
    [
        ({}, 5, "", None),
        ({"min_ratio": 5}, 5, "ratio >= 5", True),
        ({"min_ratio": 6}, 5, "ratio >= 6", False),
        ({"more_is_better": True, "min_ratio": 0.2}, 0.2, "ratio >= 0.2", True),
        ({"min_ratio": 1, "at_most": 1}, 5, "ratio >= 1, <= 1", False),
        ({"peer": None, "at_least": 2}, None, ">= 2", True),
        ({"peer": None, "at_most": 0}, None, "<= 0", False),
    ],
)
def test_a_figure_is_met_if_all_its_targets_are(
    changes: dict[str, Any], ratio: float | None, target: str, met: bool | None
) -> None:
    record = figure(**changes).record()
    assert (record["ratio"], record["target"], record["met"]) == (ratio, target, met)


def test_a_fast_result_that_is_not_the_peers_result_misses_its_target() -> None:
    record = figure(min_ratio=1, check=Check(what="distance", value=0.2, at_most=0.1)).record()
    assert not record["met"]
    assert "**no**" in table([record], [])
    assert "distance 2.0e-01 **too far**" in table([record], [])


def test_sides_are_timed_by_turns_after_the_warm_up() -> None:
    calls: list[str] = []
    seconds = by_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_module_that_fails_is_a_row_of_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    records, run = collect("absent", 1, 60)
    assert not records
    assert run["error"].startswith("failed")
    assert "bench_absent" in capfd.readouterr().err
    rows = table([figure(min_ratio=1).record()], [run]).splitlines()
    assert len(rows) == 4
    assert "yes" in rows[2]
    assert "**no**" in rows[3]
    json.dumps(run)
