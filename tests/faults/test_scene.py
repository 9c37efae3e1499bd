"""The proof of the proofs: a fault can't pass unseen, nor with another answer than its own."""

from __future__ import annotations

import pytest

from tests.conftest import Serve, one_upstream
from tests.faults import scene as stage
from tests.faults.scene import COMPLETE, Scene, fault
from tests.upstream import FakeUpstream

UNAVAILABLE = "502 upstream_unavailable"


@pytest.mark.parametrize(
    ("calls", "client", "billing", "log", "holds"),
    [
        (1, COMPLETE, "usage", {"status": 200}, True),
        (1, COMPLETE, "usage", {"attempts": None, "ttfb_ms": ...}, True),
        (0, COMPLETE, "usage", {"status": 200}, False),
        (1, UNAVAILABLE, "usage", {"status": 200}, False),
        (1, COMPLETE, "void", {"status": 200}, False),
        (1, COMPLETE, "usage", {"status": 502}, False),
        (1, COMPLETE, "usage", {"retried": ...}, False),
        (1, COMPLETE, "usage", None, False),
    ],
)
async def test_a_row_holds_only_where_all_of_it_was_seen(
    serve: Serve,
    upstream: FakeUpstream,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    client: str,
    billing: str,
    log: dict[str, object] | None,
    holds: bool,
) -> None:
    monkeypatch.setattr(stage, "ROWS", [])

    @fault("healthy", client, billing, log=log)
    async def play(scene: Scene) -> None:
        await scene.start(one_upstream(upstream.base_url))
        for _ in range(calls):
            await scene.call()

    scene = Scene(serve, caplog)
    if holds:
        await play(scene=scene)
    else:
        with pytest.raises(AssertionError):
            await play(scene=scene)
