"""Routes: who is asked in which order, who sees which model, and what a call can cost at most."""

from __future__ import annotations

import time
from collections import Counter
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy import routes
from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from tokenhub_proxy.keys import Scope
from tokenhub_proxy.prices import Price
from tokenhub_proxy.routes import Route, Routes, Target, Upstream, matches

UPSTREAM = Upstream("up", "openai", "https://example.com/v1")


def target(name: str, weight: int = 1, priority: int = 1) -> Target:
    return Target(UPSTREAM, name, weight, priority)


def route(*targets: Target, price: Price | None = None, **fields: Any) -> Route:
    return Route("m", targets or (target("a"),), price or Price(), **fields)


def names(route: Route, fraction: float) -> list[str]:
    return [target.model for target in route.order(fraction)]


# --- the order of targets


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_the_first_target_is_drawn_exactly_by_weight(weights: list[int]) -> None:
    shared = route(*(target(str(number), weight) for number, weight in enumerate(weights)))
    total = sum(weights)
    drawn = Counter(names(shared, (step + 0.5) / total)[0] for step in range(total))
    assert drawn == {str(number): weight for number, weight in enumerate(weights)}


targets = st.builds(target, st.sampled_from("abcdef"), st.integers(0, 5), st.integers(1, 3))


@given(st.lists(targets, min_size=1, max_size=8), st.floats(0, 1, exclude_max=True))
def test_every_target_is_tried_once_and_lower_priority_numbers_first(
    given: list[Target], fraction: float
) -> None:
    order = list(route(*given).order(fraction))
    assert Counter(map(id, order)) == Counter(map(id, given))
    assert [each.priority for each in order] == sorted(each.priority for each in given)


@given(st.floats(0, 1, exclude_max=True))
def test_after_the_first_the_config_s_order_counts(fraction: float) -> None:
    order = names(route(*(target(name) for name in "abcd")), fraction)
    assert order[1:] == [name for name in "abcd" if name != order[0]]


def test_fallbacks_share_by_weight_too() -> None:
    two = route(target("first"), target("x", 1, 2), target("y", 3, 2))
    drawn = Counter(names(two, (step + 0.5) / 4)[1] for step in range(4))
    assert drawn == {"x": 1, "y": 3}


def test_a_target_without_weight_is_only_a_fallback() -> None:
    spare = route(target("spare", 0), target("main", 1))
    assert {names(spare, step / 100)[0] for step in range(100)} == {"main"}


# --- who sees what

patterns = st.lists(
    st.text(alphabet="ab/-.*?[]!", min_size=1, max_size=6), min_size=1, max_size=4, unique=True
).map(tuple)
models = st.lists(st.text(alphabet="ab/-.[]", min_size=1, max_size=5), max_size=8, unique=True)


@given(models, patterns, st.text(alphabet="ab/-.[]", min_size=1, max_size=5))
def test_a_key_finds_exactly_what_it_sees(known: list[str], allowed: tuple[str, ...], asked: str) -> None:
    table = Routes({name: Route(name, (target(name),), Price()) for name in known})
    scope = Scope(models=allowed)
    visible = table.visible(scope)
    assert list(visible) == [name for name in known if any(fnmatchcase(name, each) for each in allowed)]
    for name in [*known, asked]:
        if name in visible:
            assert table.find(name, scope) is visible[name]
            continue
        refusal = ModelNotFound if matches(allowed, name) else ModelNotAllowed
        with pytest.raises(refusal) as caught:
            table.find(name, scope)
        assert caught.value.param == "model"


@given(models, patterns, st.text(alphabet="ab/-.[]", min_size=1, max_size=5))
def test_a_refusal_names_no_model_that_the_key_may_not_call(
    known: list[str], allowed: tuple[str, ...], asked: str
) -> None:
    table = Routes({f"secret-{name}": Route(name, (target(name),), Price()) for name in known})
    scope = Scope(models=allowed)
    with pytest.raises((ModelNotFound, ModelNotAllowed)) as caught:
        table.find(asked, scope)
    if not table.visible(scope):
        assert "secret-" not in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "model", "matched"),
    [
        ("*", "anything/at all", True),
        ("claude-*", "claude-3-5-sonnet", True),
        ("claude-*", "CLAUDE-3", False),
        ("claude-*", "my-claude-3", False),
        ("anthropic/*", "anthropic/claude/3", True),
        ("gpt-4?", "gpt-4o", True),
        ("gpt-4?", "gpt-4", False),
        ("gpt-[34]*", "gpt-3.5", True),
        ("gpt-[!4]*", "gpt-4o", False),
        ("a[", "a[", True),
        ("a.c", "abc", False),
        ("demo", "demo\n", False),
        ("demo", "demo", True),
        ("", "demo", False),
    ],
)
def test_patterns_are_those_of_the_shell_over_the_whole_name(pattern: str, model: str, matched: bool) -> None:
    assert matches((pattern,), model) is matched


def table(*known: str) -> Routes:
    return Routes({name: Route(name, (target(name),), Price()) for name in known})


def test_a_missing_model_names_the_nearest_one() -> None:
    with pytest.raises(ModelNotFound, match=r"'gpt-4o' does not exist\. Did you mean 'gpt-4\.1'"):
        table("gpt-4.1", "claude").find("gpt-4o", Scope())
    with pytest.raises(ModelNotFound, match=r"does not exist\.$"):
        table("gpt-4.1", "claude").find("zzzzzzzz", Scope())


def test_only_a_visible_model_is_named() -> None:
    with pytest.raises(ModelNotFound) as caught:
        table("gpt-secret", "claude").find("gpt-secre", Scope(models=("gpt-secre", "claude")))
    assert caught.value.message == "The model 'gpt-secre' does not exist."


def test_a_model_outside_the_patterns_is_refused_alike_whether_or_not_it_exists() -> None:
    scope = Scope(models=("claude",))
    messages = []
    for name in ("hidden", "absent"):
        with pytest.raises(ModelNotAllowed) as caught:
            table("hidden", "claude").find(name, scope)
        messages.append(caught.value.message.replace(name, "NAME"))
    assert messages[0] == messages[1]


def test_a_thousand_models_are_searched_for_the_nearest_in_no_time() -> None:
    many = table(*(f"provider{number % 50}/model-{number * 7919:09d}-preview" for number in range(1000)))
    started = time.process_time()
    with pytest.raises(ModelNotFound):
        many.find("provider7/model-000000001-preview", Scope())
    assert time.process_time() - started < 0.05


def test_kinds_of_keys_without_end_are_not_all_remembered() -> None:
    many = table("a", "b")
    for number in range(routes.VISIBLE_MAX + 10):
        assert list(many.visible(Scope(models=("a", f"x{number}")))) == ["a"]
    assert len(many._visible) <= routes.VISIBLE_MAX


# --- fields past the scope


def test_a_field_past_the_scope_goes_only_where_it_may() -> None:
    call = Call("chat", "m", {}, scope_fields=("provider",))
    with pytest.raises(InvalidRequest) as caught:
        target("a").check(call)
    assert caught.value.param == "provider"
    router = Upstream("router", "openai", "https://example.com", allow_fields=frozenset({"provider"}))
    Target(router, "a").check(call)


def test_the_repr_of_an_upstream_holds_no_secret() -> None:
    upstream = Upstream(
        "up", "openai", "https://e.com", ("sk-secret",), (("x", "sk-secret"),), proxy="http://u:sk-secret@p"
    )
    assert "sk-secret" not in repr(upstream)
    assert "sk-secret" not in repr(Target(upstream, "m"))


# --- the most a call can cost

DEAR = Price(input=2 * 10**6, cached=10**6, cache_write=3 * 10**6, output=10 * 10**6)  # 3 and 10 n$ a token


def call(**fields: Any) -> Call:
    return Call("chat", "m", {}, text_bytes=fields.pop("text_bytes", 100), **fields)


def test_a_stated_limit_is_covered_whatever_is_left() -> None:
    bound = route(price=DEAR, output_max=1000).bound
    for left in (None, 0, 10**12):
        assert bound(call(output_max=50), left) == (300 + 500, None)
        assert bound(call(output_max=50, choices=3), left) == (300 + 1500, None)


def test_without_a_stated_limit_the_model_s_own_counts_and_nothing_is_sent() -> None:
    bound = route(price=DEAR, output_max=1000).bound
    assert bound(call(), None) == (300 + 10_000, None)
    assert bound(call(choices=2), 20_300) == (300 + 20_000, None)


def test_a_model_without_a_limit_gets_one_that_is_sent() -> None:
    amount, output_max = route(price=DEAR).bound(call(), None)
    assert (amount, output_max) == (300 + 10 * 4096, 4096)


def test_a_small_balance_is_spent_to_its_end() -> None:
    bound = route(price=DEAR, output_max=1000).bound
    assert bound(call(), 10_299) == (300 + 9990, 999)
    assert bound(call(), 300 + 2560) == (300 + 2560, 256)
    assert bound(call(choices=2), 300 + 2 * 2569) == (300 + 2 * 2560, 256)


def test_less_than_256_tokens_a_choice_are_not_worth_an_answer() -> None:
    bound = route(price=DEAR, output_max=1000).bound
    assert bound(call(), 300 + 2559) == (300 + 10_000, None)
    assert bound(call(choices=2), 300 + 2 * 2560 - 1) == (300 + 20_000, None)
    assert bound(call(), -5) == (300 + 10_000, None)


@given(
    st.builds(Price, *[st.integers(0, 10**10)] * 4),
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.none() | st.integers(1, 10**5),
    st.none() | st.integers(1, 10**6),
    st.none() | st.integers(-(10**9), 10**12),
)
def test_a_hold_covers_every_answer_within_the_limits(
    price: Price, text_bytes: int, choices: int, stated: int | None, output_max: int | None, left: int | None
) -> None:
    from tokenhub_proxy.prices import Usage

    asked = call(text_bytes=text_bytes, choices=choices, output_max=stated)
    amount, sent = route(price=price, output_max=output_max).bound(asked, left)
    written = (sent or stated or output_max or 0) * choices
    for kind in ("input", "cached", "cache_write"):
        assert price.cost(Usage(output=written, **{kind: text_bytes})) <= amount
    if sent is not None and left is not None and sent < (output_max or routes.OUTPUT_MAX_ASSUMED):
        assert amount <= left
        assert sent >= routes.OUTPUT_MIN_AFFORDABLE


def test_images_count_what_the_route_says() -> None:
    seeing = route(price=DEAR, output_max=1, image_tokens_max=1000)
    assert seeing.bound(call(images=2), None) == ((100 + 2000) * 3 + 10, None)


def test_what_only_the_upstream_can_size_may_fill_the_context() -> None:
    reading = call(reads_more=True, output_max=1)
    assert route(price=DEAR, context_length=50_000).bound(reading, None) == (50_000 * 3 + 10, None)
    assert route(price=DEAR).bound(reading, None) == (routes.CONTEXT_ASSUMED * 3 + 10, None)
    assert route(price=DEAR, context_length=50).bound(reading, None) == (100 * 3 + 10, None)


def test_free_output_needs_no_limit() -> None:
    assert route().bound(call(), 0) == (0, None)
    assert route(price=Price(input=10**6)).bound(call(), 0) == (100, None)


def test_embeddings_cost_their_input_alone() -> None:
    asked = Call("embeddings", "m", {}, text_bytes=1000)
    assert route(price=DEAR).bound(asked, None) == (3000, None)


def test_a_model_of_embeddings_writes_no_chat() -> None:
    with pytest.raises(InvalidRequest, match="serves embeddings only"):
        route(embeddings_only=True).bound(call(), None)
    embedded = route(price=Price(input=10**6), embeddings_only=True)
    assert embedded.bound(Call("embeddings", "m", {}, text_bytes=7), None) == (7, None)
