"""Names of calls."""

from __future__ import annotations

import os

from tokenhub_proxy.request_ids import RANDOM_AHEAD, RequestIds


def test_ids_grow_with_time_and_are_all_different() -> None:
    make = RequestIds(os.urandom)
    found = [make(1_000_000.0 + at / 1000) for at in range(3 * RANDOM_AHEAD)]
    assert found == sorted(found)
    assert len(set(found)) == len({one[-20:] for one in found}) == len(found)
    assert {len(one) for one in found} == {36}


def test_every_random_byte_is_used_once() -> None:
    given: list[bytes] = []

    def count_up(count: int) -> bytes:
        given.append(bytes((len(given) * 7 + at // 10) % 256 for at in range(count)))
        return given[-1]

    make = RequestIds(count_up)
    drawn = {make(0.0)[-20:] for _ in range(RANDOM_AHEAD)}
    assert len(given) == 1
    assert "".join(sorted(drawn)) == "".join(
        sorted(given[0].hex()[at : at + 20] for at in range(0, 5120, 20))
    )
