"""Memory: bounded, least recently used first to go, and nobody's state for another."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.dialects.memory import Memory


def test_what_was_put_is_got_by_its_owner_alone() -> None:
    memory = Memory()
    memory.put("main", "call_1", b"signature")
    assert memory.get("main", "call_1") == b"signature"
    assert memory.get("other", "call_1") is None
    assert memory.get("main", "call_2") is None


def test_a_new_state_replaces_the_old_one() -> None:
    memory = Memory(bytes_max=20)
    for _ in range(100):
        memory.put("a", "1", b"12345678")
    memory.put("a", "2", b"x")
    assert memory.get("a", "1") == b"12345678"


def test_the_least_recently_used_goes_first() -> None:
    memory = Memory(entries_max=2)
    memory.put("a", "1", b"one")
    memory.put("a", "2", b"two")
    assert memory.get("a", "1") == b"one"
    memory.put("a", "3", b"three")
    assert [memory.get("a", id) for id in "123"] == [b"one", None, b"three"]


def test_one_larger_than_the_whole_bound_is_not_kept_and_drives_nobody_out() -> None:
    memory = Memory(bytes_max=10)
    memory.put("a", "1", b"old")
    memory.put("a", "2", b"x" * 11)
    assert [memory.get("a", id) for id in "12"] == [b"old", None]


def test_a_state_too_large_to_keep_leaves_no_older_one_in_its_place() -> None:
    memory = Memory(bytes_max=10)
    memory.put("a", "1", b"old")
    memory.put("a", "1", b"x" * 11)
    assert memory.get("a", "1") is None


def test_long_ids_count_too() -> None:
    memory = Memory(bytes_max=1000)
    for number in range(100):
        memory.put("a", f"{number:0200d}", b"")
    assert sum(memory.get("a", f"{number:0200d}") is not None for number in range(100)) <= 4


puts = st.tuples(st.sampled_from(["a", "bb"]), st.sampled_from(["1", "22", "333"]), st.binary(max_size=12))
gets = st.tuples(st.sampled_from(["a", "bb"]), st.sampled_from(["1", "22", "333"]), st.none())


@given(st.lists(puts | gets, max_size=60), st.integers(0, 4), st.integers(0, 30))
def test_it_remembers_what_a_simple_model_remembers(
    steps: list[tuple[str, str, bytes | None]], entries_max: int, bytes_max: int
) -> None:
    memory = Memory(entries_max, bytes_max)
    model: OrderedDict[tuple[str, str], bytes] = OrderedDict()
    for owner, id, state in steps:
        if state is None:
            assert memory.get(owner, id) == model.get((owner, id))
            if (owner, id) in model:
                model.move_to_end((owner, id))
            continue
        memory.put(owner, id, state)
        model.pop((owner, id), None)
        if len(owner) + len(id) + len(state) <= bytes_max:
            model[owner, id] = state
        while (
            len(model) > entries_max
            or sum(len(o) + len(i) + len(s) for (o, i), s in model.items()) > bytes_max
        ):
            model.popitem(last=False)
