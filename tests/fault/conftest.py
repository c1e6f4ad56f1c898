"""The table of faults is kept for the whole run; the folder above shows it at its end."""

from __future__ import annotations

import pytest

from tests.conftest import FAULTS
from tests.fault.fault_table import FaultTable


@pytest.fixture(scope="session")
def fault_table(request: pytest.FixtureRequest) -> FaultTable:
    return request.config.stash.setdefault(FAULTS, FaultTable())
