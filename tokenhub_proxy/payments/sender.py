"""How a request reaches a provider: one small HTTP client with a deadline and a bound."""

from __future__ import annotations

import ssl

import aiohttp

from tokenhub_proxy import __version__
from tokenhub_proxy.payments import ANSWER_BYTES_MAX, Ask, Said, Unavailable

# Providers answer within a second; who is slower is asked again later.
TOTAL_S = 15.0
CONNECT_S = 5.0
CONNECTIONS_MAX = 20


class Sender:
    """Implements `payments.Send`. Redirects are not followed, cookies not kept, the environment not read."""

    def __init__(self, total_s: float = TOTAL_S) -> None:
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, ask: Ask) -> Said:
        """Send it. Raises Unavailable where no whole answer came."""
        try:
            async with self._opened().request(
                ask.method, ask.url, headers=ask.headers, data=ask.body or None, allow_redirects=False
            ) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BYTES_MAX:
                        raise Unavailable("the answer is too long")
                return Said(answer.status, bytes(body))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            # Its text may show the URL with its query; the kind says enough.
            raise Unavailable(type(error).__name__) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A context of our own: aiohttp's was made when it was imported, with no authorities.
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(), limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"tokenhub-proxy/{__version__}"},
                auto_decompress=True,
            )
        return self._session

    async def aclose(self) -> None:
        """Close what is open."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
