"""The doors of the dashboard: first link, signing in and up, throttling, sessions and their ends."""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.browsing import Visitor, visitor
from tests.conftest import Running, Serve, one_upstream
from tests.served import Served, run
from tests.upstream import FakeUpstream
from tokenhub_proxy.dashboard import access
from tokenhub_proxy.dashboard.asked import local_path, same_origin
from tokenhub_proxy.dashboard.passwords import Busy, Passwords
from tokenhub_proxy.dashboard.throttle import REMEMBERED_MAX, Throttle
from tokenhub_proxy.errors import InvalidRequest, RateLimited
from tokenhub_proxy.users import COMMAND_LINE

PASSWORD = "correct horse battery"
CHEAP = 2**4


async def invited(running: Running, name: str = "root", **arguments: object) -> str:
    """The path of a link for a new user."""
    asked = {"name": name, **(arguments or {"operator": True})}
    made = await running.proxy.administration.perform("users invite", asked, COMMAND_LINE)
    path: str = made["link"].removeprefix(running.url)
    return path


def cookie_of(headers: object) -> str:
    found = re.match(r"tokenhub=([0-9a-f]*);", str(headers))
    assert found, headers
    return found[1]


async def signed_in(running: Running, name: str, password: str) -> Visitor:
    seen = await Visitor(running).post("/dashboard/sign-in", {"name": name, "password": password})
    assert seen.status == 303, seen.text
    return Visitor(running, cookie_of(seen.headers["set-cookie"]))


async def test_an_invited_person_sets_a_password_and_signs_in_with_it(proxy: Running) -> None:
    path = await invited(proxy)
    wrong = await Visitor(proxy).post(path, {"new_password": PASSWORD, "again": "another one!"})
    short = await Visitor(proxy).post(path, {"new_password": "short", "again": "short"})
    assert (wrong.status, short.status) == (400, 400)
    done = await Visitor(proxy).post(path, {"new_password": PASSWORD, "again": PASSWORD})
    assert (done.status, done.location) == (303, "/dashboard")
    assert "HttpOnly; SameSite=Lax" in done.headers["set-cookie"]
    again = await Visitor(proxy).post(path, {"new_password": PASSWORD, "again": PASSWORD})
    assert again.status == 404
    root = await signed_in(proxy, "ROOT", PASSWORD)
    assert (await root.get("/dashboard/system")).status == 200


async def test_a_changed_password_ends_every_other_session(proxy: Running) -> None:
    path = await invited(proxy)
    first = await Visitor(proxy).post(path, {"new_password": PASSWORD, "again": PASSWORD})
    one = Visitor(proxy, cookie_of(first.headers["set-cookie"]))
    two = await signed_in(proxy, "root", PASSWORD)
    new = {"new_password": "another good password", "again": "another good password"}
    refused = await two.post("/dashboard/account/password", {"password": "wrong", **new})
    assert refused.status == 400
    done = await two.post("/dashboard/account/password", {"password": PASSWORD, **new})
    assert done.status == 303
    for who in (one, two):
        assert (await who.get("/dashboard")).location == "/dashboard/sign-in"
    assert (await Visitor(proxy, cookie_of(done.headers["set-cookie"])).get("/dashboard")).status == 200
    verbs = [act.verb for act in await proxy.ledger.people.acts()]
    assert verbs == ["changed the password", "signed in", "set a password", "users invite"]


async def test_who_is_there_is_told_to_nobody(proxy: Running) -> None:
    await Visitor(proxy).post(await invited(proxy), {"new_password": PASSWORD, "again": PASSWORD})

    async def refused(name: str) -> tuple[int, str, float]:
        begun = time.process_time()  # of all threads: what the clock says depends on who else is busy
        seen = await Visitor(proxy).post("/dashboard/sign-in", {"name": name, "password": "wrong wrong"})
        took = time.process_time() - begun
        return seen.status, re.sub(r'value="[^"]*"', "", seen.text), took

    known = [await refused("root") for _ in range(4)]
    unknown = [await refused("nobody") for _ in range(4)]
    assert {status for status, _, _ in known + unknown} == {400}
    assert {text for _, text, _ in known} == {text for _, text, _ in unknown}
    fastest = [min(took for _, _, took in each) for each in (known, unknown)]
    assert max(fastest) < 3 * min(fastest)
    assert statistics.mean(fastest) > 0.02


async def test_guessing_is_slowed_by_name_and_by_address(proxy: Running) -> None:
    asked = {"name": "root", "password": "guess"}
    statuses = [(await Visitor(proxy).post("/dashboard/sign-in", asked)).status for _ in range(7)]
    assert statuses == [400] * 5 + [429] * 2
    last = await Visitor(proxy).post("/dashboard/sign-in", asked)
    assert int(last.headers["retry-after"]) > 0


def test_waits_grow_and_end_and_memory_is_bounded() -> None:
    throttle = Throttle()
    for attempt in range(5):
        throttle.check("ann", "::1", attempt)
        throttle.failed("ann", "::1", attempt)
    waits = []
    for _ in range(4):
        with pytest.raises(RateLimited) as refused:
            throttle.check("ann", "10.0.0.1", 4.0)
        waits.append(refused.value.retry_after_s)
        throttle.failed("ann", "10.0.0.1", 4.0)
    assert waits == [30, 60, 120, 240]
    throttle.check("ann", "10.0.0.1", 4.0 + 900)
    throttle.check("bob", "::1", 4.0)
    throttle.succeeded("ann", "10.0.0.1")
    throttle.check("ann", "10.0.0.1", 4.0)
    for number in range(REMEMBERED_MAX):
        throttle.failed(str(number), str(number), 5.0)
    assert len(throttle._failed) <= REMEMBERED_MAX


async def test_a_password_is_known_by_its_verifier_alone() -> None:
    passwords = Passwords(lambda n: bytes(range(n)), CHEAP)
    verifier = await passwords.verifier(PASSWORD)
    assert PASSWORD not in verifier
    assert await passwords.right(PASSWORD, verifier)
    assert not await passwords.right(PASSWORD + "!", verifier)
    assert not await passwords.right(PASSWORD, None)
    assert not await passwords.right(verifier, verifier)
    for bad in ("short", "x" * 257):
        with pytest.raises(InvalidRequest):
            await passwords.verifier(bad)


async def test_more_at_once_than_there_is_memory_for_are_told_to_come_back() -> None:
    import asyncio

    passwords = Passwords(lambda n: bytes(n), CHEAP)
    checks = [passwords.right(PASSWORD, None) for _ in range(40)]
    found = await asyncio.gather(*checks, return_exceptions=True)
    assert sum(isinstance(one, Busy) for one in found) == 22
    assert await passwords.right(PASSWORD, None) is False


# --- sessions


async def test_sessions_end_by_age_by_idleness_and_by_hand(proxy: Running) -> None:
    one, two = await visitor(proxy, "ann", "acme"), await visitor(proxy, "ann", "acme")
    people, now = proxy.ledger.people, proxy.proxy.relay.clock()
    first, second = (people.session(access.digest(who.secret)) for who in (one, two))
    await people.put_session(replace(first, seen_at=now - access.IDLE_S))
    assert (await one.get("/dashboard")).location == "/dashboard/sign-in"
    await people.put_session(replace(second, created_at=now - access.SESSION_S))
    assert (await two.get("/dashboard")).location == "/dashboard/sign-in"
    assert people.sessions_of("usr_ann") == []
    here, there = await visitor(proxy, "ann", "acme"), await visitor(proxy, "ann", "acme")
    other = await visitor(proxy, "bob", "other")
    ended = access.session_id(people.session(access.digest(there.secret)))
    await other.post("/dashboard/account/sessions", {"session": ended})
    assert (await there.get("/dashboard")).status == 200
    await here.post("/dashboard/account/sessions", {"session": "others"})
    assert (await there.get("/dashboard")).status == 303
    assert (await here.get("/dashboard")).status == 200
    assert (await other.get("/dashboard")).status == 200


async def test_a_blocked_person_is_out_at_once(proxy: Running) -> None:
    ann, root = await visitor(proxy, "ann", "acme"), await visitor(proxy, "root")
    done = await root.post("/dashboard/people", {"act": "block", "name": "ann"})
    assert done.status == 303
    assert (await ann.get("/dashboard")).location == "/dashboard/sign-in"
    refused = await root.post("/dashboard/people", {"act": "block", "name": "root"})
    assert refused.status == 400


async def test_one_person_has_so_many_sessions_and_the_oldest_goes(proxy: Running) -> None:
    first = await visitor(proxy, "ann", "acme")
    for _ in range(20):
        last = await visitor(proxy, "ann", "acme")
    assert len(proxy.ledger.people.sessions_of("usr_ann")) == 20
    assert (await first.get("/dashboard")).status == 303
    assert (await last.get("/dashboard")).status == 200


async def test_over_tls_the_cookie_is_bound_to_the_host(serve: Serve, upstream: FakeUpstream) -> None:
    running = await serve(one_upstream(upstream.base_url, "trusted_proxies: [127.0.0.1]\n"))
    path = await invited(running)
    done = await Visitor(running).post(
        path, {"new_password": PASSWORD, "again": PASSWORD}, **{"X-Forwarded-Proto": "https"}
    )
    assert done.headers["set-cookie"].startswith("__Host-tokenhub=")
    assert done.headers["set-cookie"].endswith("; Secure")
    assert "max-age" in done.headers["strict-transport-security"]
    secret = done.headers["set-cookie"].partition("=")[2].partition(";")[0]
    plain = await Visitor(running).get("/dashboard", Cookie=f"__Host-tokenhub={secret}")
    assert plain.status == 303
    tls = {"Cookie": f"__Host-tokenhub={secret}", "X-Forwarded-Proto": "https"}
    assert (await Visitor(running).get("/dashboard", **tls)).status == 200


# --- signing up


async def test_strangers_sign_up_only_where_the_config_says_so(
    proxy: Running, serve: Serve, upstream: FakeUpstream
) -> None:
    asked = {"name": "new@example.com", "new_password": PASSWORD, "again": PASSWORD}
    assert (await Visitor(proxy).post("/dashboard/sign-up", asked)).status == 404
    running = await serve(one_upstream(upstream.base_url, "dashboard: {sign_up: true}\n"))
    done = await Visitor(running).post("/dashboard/sign-up", asked)
    assert done.status == 303
    account = running.ledger.account("new.example.com")
    assert (account.posted, account.unlimited) == (0, False)
    taken = await Visitor(running).post("/dashboard/sign-up", asked)
    assert taken.status == 400


@pytest.mark.parametrize(
    "text",
    ["//evil.example", "https://evil.example", "/\\evil", "/dashboard//evil", "javascript:x", "/dashboard\n"],
)
def test_nobody_is_sent_elsewhere_after_signing_in(text: str) -> None:
    assert local_path(text) == "/dashboard"


def test_a_place_of_ours_is_gone_back_to() -> None:
    assert local_path("/dashboard/keys?x=1") == "/dashboard/keys?x=1"


def test_an_origin_counts_by_host_and_port() -> None:
    assert same_origin({"Host": "hub.example:8900", "Origin": "http://hub.example:8900"})
    assert not same_origin({"Host": "hub.example:8900", "Origin": "http://hub.example"})
    assert not same_origin({"Host": "", "Origin": "http://"})


# --- the first start


def test_the_first_start_offers_a_link_and_the_command_line_another(tmp_path: Path) -> None:
    served = Served(tmp_path, "--listen", "127.0.0.1:0")
    try:
        first = re.search(r"^  (http://\S+/dashboard/link/[0-9a-f]{64})$", served.said, re.MULTILINE)
        assert first, served.said
        asked = run(tmp_path, "users", "invite", "ann", "--operator", "--json")
        assert asked.returncode == 0, asked.stderr
        assert f"{served.base_url.removesuffix('/v1')}/dashboard/link/" in asked.stdout
        listed = run(tmp_path, "users", "list")
        assert "operator" in listed.stdout
        assert "invited" in listed.stdout
        trail = run(tmp_path, "audit")
        assert "users invite" in trail.stdout
        assert "command line" in trail.stdout
    finally:
        assert served.stop() == 0
