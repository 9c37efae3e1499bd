"""The stage of every fault."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Serve
from tests.faults.scene import Scene


@pytest.fixture
async def scene(serve: Serve, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    scene = Scene(serve, caplog)
    yield scene
    await scene.aclose()
