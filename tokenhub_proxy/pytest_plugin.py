"""The pytest plugin: fixtures `tokenhub` and `tokenhub_session`. It imports nothing until they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

MODES = ("none", "once", "new_episodes", "all")

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
    marker = request.node.get_closest_marker("tokenhub")
    if marker is not None and "cassette" in marker.kwargs:
        _insert(proxy, request, **marker.kwargs)
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


def _insert(proxy: Tokenhub, request: pytest.FixtureRequest, cassette: str, **options: Any) -> None:
    """Play the cassette of the marker, from the folder `cassettes` beside the test."""
    path = request.path.parent / "cassettes" / cassette
    if not path.suffix:
        path = path.with_suffix(".jsonl")
    mode = request.config.getoption("tokenhub_record", None) or options.pop("mode", "none")
    if mode == "none" and not path.exists():
        pytest.fail(f"tokenhub: there is no cassette {path}; record it with --tokenhub-record=once", False)
    proxy.play(path, mode=mode, **options)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--tokenhub-record MODE`."""
    help = (
        "record the cassettes of tests: once, where there is none; new_episodes, what is missing; all, anew"
    )
    parser.getgroup("tokenhub").addoption("--tokenhub-record", choices=MODES, help=help)


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    line = "tokenhub(cassette, mode, timing, scale, strict, ignore): play a cassette, or record it"
    config.addinivalue_line("markers", line)


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
            for complaint in proxy.complaints():
                item.add_report_section("call", "tokenhub", complaint)
        raise
    complaints = [complaint for proxy in found for complaint in proxy.complaints()]
    if complaints:
        pytest.fail("tokenhub: " + "\n".join(complaints), pytrace=False)
