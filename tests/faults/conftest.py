"""The stage of every fault."""

from __future__ import annotations

import pytest

from tests.conftest import Serve
from tests.faults.scene import Scene


@pytest.fixture
def scene(serve: Serve, caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(serve, caplog)
