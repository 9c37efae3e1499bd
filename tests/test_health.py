"""Breakers and cool-downs, with time as an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.health import FAILURES_MAX, OPEN_MAX_S, OPEN_S, REFUSED_S, UNPAID_S, Health
from tokenhub_proxy.routes import Target, Upstream

UP = Upstream("up", "openai", "http://up/v1", credentials=("a", "b"))
TARGET = Target(UP, "m")
ALONE = Target(Upstream("alone", "openai", "http://alone/v1", credentials=("only",)), "m")


def down(
    kind: str = "refused", status: int | None = None, wait_s: float | None = None
) -> UpstreamUnavailable:
    return UpstreamUnavailable(kind=kind, upstream_status=status, retry_after_s=wait_s)


def fail(health: Health, target: Target, times: int, now_s: float) -> None:
    for _ in range(times):
        health.breaker(target).ask()
        health.failed(target, "a", down(), now_s)


def test_a_few_failures_change_nothing() -> None:
    health = Health()

    fail(health, TARGET, FAILURES_MAX - 1, 10.0)

    assert health.wait_s(TARGET, 10.0) == 0


def test_failures_in_a_row_open_the_breaker_and_a_success_forgets_them() -> None:
    health = Health()
    fail(health, TARGET, FAILURES_MAX - 1, 10.0)
    health.breaker(TARGET).succeeded()
    fail(health, TARGET, FAILURES_MAX - 1, 10.0)
    assert health.wait_s(TARGET, 10.0) == 0

    fail(health, TARGET, 1, 10.0)

    assert health.wait_s(TARGET, 10.0) == OPEN_S
    assert health.states(10.0) == {("up", "m"): OPEN_S}


def test_after_the_pause_one_probe_decides() -> None:
    health = Health()
    fail(health, TARGET, FAILURES_MAX, 0.0)
    assert health.wait_s(TARGET, OPEN_S) == 0

    health.breaker(TARGET).ask()
    assert health.wait_s(TARGET, OPEN_S) > 0  # the others wait for the probe
    health.failed(TARGET, "a", down(), OPEN_S)
    assert health.wait_s(TARGET, OPEN_S) == 2 * OPEN_S

    health.breaker(TARGET).ask()
    health.breaker(TARGET).succeeded()
    assert health.wait_s(TARGET, OPEN_S) == 0
    assert health.states(OPEN_S) == {}


def test_a_probe_whose_client_left_lets_another_probe_through() -> None:
    health = Health()
    fail(health, TARGET, FAILURES_MAX, 0.0)
    health.breaker(TARGET).ask()

    health.breaker(TARGET).left()

    assert health.wait_s(TARGET, OPEN_S) == 0


def test_the_pause_doubles_up_to_its_bound() -> None:
    health, now_s = Health(), 0.0
    fail(health, TARGET, FAILURES_MAX, now_s)

    for _ in range(10):
        now_s += health.wait_s(TARGET, now_s)
        fail(health, TARGET, 1, now_s)

    assert health.wait_s(TARGET, now_s) == OPEN_MAX_S


def test_a_retry_after_of_the_upstream_is_kept_at_once() -> None:
    health = Health()

    health.failed(TARGET, "a", down("status", 503, 20.0), 0.0)

    assert health.wait_s(TARGET, 5.0) == 15.0


def test_one_model_of_an_upstream_says_nothing_of_the_others() -> None:
    health = Health()

    fail(health, TARGET, FAILURES_MAX, 0.0)

    assert health.wait_s(Target(UP, "other"), 0.0) == 0


def test_a_refused_credential_gives_way_to_the_next_until_it_has_cooled_down() -> None:
    health = Health()
    assert health.credential(UP, 0.0) == "a"

    health.failed(TARGET, "a", down("status", 401), 0.0)

    assert health.credential(UP, 1.0) == "b"
    assert health.spare(UP, 1.0)
    assert health.wait_s(TARGET, 1.0) == 0
    assert health.credential(UP, REFUSED_S) == "a"


def test_with_every_credential_cooling_the_target_waits_for_the_soonest() -> None:
    health = Health()

    health.failed(TARGET, "a", down("status", 402), 0.0)
    health.failed(TARGET, "b", down("status", 429, 30.0), 0.0)

    assert not health.spare(UP, 1.0)
    assert health.credential(UP, 1.0) == "b"
    assert health.wait_s(TARGET, 10.0) == 20.0
    assert health.wait_s(TARGET, UNPAID_S) == 0


def test_a_single_credential_cools_down_too() -> None:
    health = Health()

    health.failed(ALONE, "only", down("status", 429, 7.0), 0.0)

    assert health.wait_s(ALONE, 0.0) == 7.0
    assert health.credential(ALONE.upstream, 0.0) == "only"


def test_a_full_pool_says_nothing_against_the_target() -> None:
    health = Health()

    for _ in range(FAILURES_MAX + 1):
        health.failed(TARGET, "a", down("pool_timeout"), 0.0)

    assert health.wait_s(TARGET, 0.0) == 0


def test_an_upstream_without_credentials_has_none_to_give() -> None:
    assert Health().credential(Upstream("local", "openai", "http://l/v1"), 0.0) is None


class Suspicious(Health):
    """Never takes a short way: looks at every breaker and cool-down, every time."""

    def wait_s(self, target: Target, now_s: float) -> float:
        self._quiet, self._look_s = False, float("inf")
        return super().wait_s(target, now_s)


STEPS = st.tuples(
    st.sampled_from(["fail", "limited", "refused", "answer", "leave"]),
    st.sampled_from([TARGET, ALONE]),
    st.sampled_from([0.0, 0.4, 1.0, 5.0, 61.0, 301.0]),
)


@given(st.lists(STEPS, max_size=40))
def test_looking_less_while_all_is_well_changes_no_verdict(steps: list[tuple[str, Target, float]]) -> None:
    health, suspicious, now_s = Health(), Suspicious(), 0.0
    for step, target, passed_s in steps:
        now_s += passed_s
        for each in (health, suspicious):
            credential = target.upstream.credentials[0]
            breaker = each.breaker(target)
            breaker.ask()
            if step == "answer":
                breaker.succeeded()
            elif step == "leave":
                breaker.left()
            elif step == "fail":
                each.failed(target, credential, down(), now_s)
            else:
                status = 429 if step == "limited" else 401
                each.failed(target, credential, down("status", status, 7.0), now_s)
        for one in (TARGET, ALONE):
            assert health.wait_s(one, now_s) == suspicious.wait_s(one, now_s)
