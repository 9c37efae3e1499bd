"""The pytest plugin: fixtures `tokenhub` and `tokenhub_session`. It imports nothing until they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tokenhub_proxy.testing.fixture import Proxies, Tokenhub

# The proxies that a test, or the whole run, uses.
_PROXY: pytest.StashKey[Tokenhub] = pytest.StashKey()


@pytest.fixture(scope="session")
def _tokenhub_proxies() -> Iterator[Proxies]:
    from tokenhub_proxy.testing.fixture import Proxies

    proxies = Proxies()
    yield proxies
    proxies.close()


@pytest.fixture
def tokenhub(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _tokenhub_proxies: Proxies
) -> Iterator[Tokenhub]:
    """A gateway of this test's own, and OPENAI_BASE_URL and OPENAI_API_KEY set to it."""
    proxy = _tokenhub_proxies.take()
    request.node.stash[_PROXY] = proxy
    _set_environment(monkeypatch, proxy)
    yield proxy
    _tokenhub_proxies.give_back(proxy)


@pytest.fixture(scope="session")
def tokenhub_session(request: pytest.FixtureRequest, _tokenhub_proxies: Proxies) -> Iterator[Tokenhub]:
    """One gateway for the whole run; `forget()` gives each test a clean slate."""
    proxy = _tokenhub_proxies.take()
    request.session.stash[_PROXY] = proxy
    with pytest.MonkeyPatch.context() as monkeypatch:
        _set_environment(monkeypatch, proxy)
        yield proxy
    _tokenhub_proxies.give_back(proxy)


def _set_environment(monkeypatch: pytest.MonkeyPatch, proxy: Tokenhub) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", proxy.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", proxy.api_key)
    # Calls to this machine must not go through a company's proxy.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1", prepend=",")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test whose requests found no answer, whatever it made of the errors that it got."""
    found = [stash[_PROXY] for stash in (item.stash, item.session.stash) if _PROXY in stash]
    try:
        yield
    except BaseException:
        for proxy in found:
            for miss in proxy.unmatched:
                item.add_report_section("call", "tokenhub", miss)
            proxy.unmatched.clear()
        raise
    misses = [miss for proxy in found for miss in proxy.unmatched]
    for proxy in found:
        proxy.unmatched.clear()
    if misses:
        pytest.fail("tokenhub: " + "\n".join(misses), pytrace=False)
