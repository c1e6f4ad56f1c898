"""The table of faults is kept for the whole run, shown at its end, and written to build/faults.md."""

from __future__ import annotations

import os

import pytest

from tests.fault.fault_table import FaultTable

TABLE = pytest.StashKey[FaultTable]()


@pytest.fixture(scope="session")
def fault_table(request: pytest.FixtureRequest) -> FaultTable:
    return request.config.stash.setdefault(TABLE, FaultTable())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, None)
    if table is None or not table.lines():
        return
    path = os.path.join(config.rootpath, "build", "faults.md")
    table.write(path)
    terminalreporter.section("faults")
    terminalreporter.write(table.markdown())
