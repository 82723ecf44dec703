import os
import time
from pathlib import Path

import pytest

from gadgets.worker.memory import keep_memory

keep_memory()  # as the commands do

IN_CI = os.environ.get("CI") == "true"
LONG_S = 30.0


class AsItHappens:
    """Says what failed, and what took long: a run that is stopped never comes to its summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal, self._began = terminal, time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.duration > LONG_S:
            after = f"after {report.duration:.0f} s, {time.monotonic() - self._began:.0f} s in all"
            self._terminal.write_line(f"\n{report.nodeid} {report.outcome} {after}")
        if report.failed:
            self._terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)  # behind the terminal's own
def pytest_configure(config: pytest.Config) -> None:
    if IN_CI:
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        config.pluginmanager.register(AsItHappens(terminal))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow") or IN_CI:
        return
    skip = pytest.mark.skip(reason="slow: run with CI=true or --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, which is not part of the project."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MNET_SHARED", beside))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
