"""Which transport carries a call: the network, a script inside the process, a tape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from tokenhub_proxy.calls import Call
from tokenhub_proxy.config import Config
from tokenhub_proxy.routes import Target
from tokenhub_proxy.transports.demo import Demo
from tokenhub_proxy.transports.fanout import FanOut
from tokenhub_proxy.transports.faulty import Faulty
from tokenhub_proxy.transports.live import Live
from tokenhub_proxy.transports.script import Script
from tokenhub_proxy.transports.tape import Tape
from tokenhub_proxy.wire import Transport


class Transports:
    """The transport of each target: the network, or a script for what is inside the process."""

    def __init__(self, scripted: Mapping[str, Transport], hop: str = "") -> None:
        self._live = Live(via=f"1.1 {hop}" if hop else None)
        self._network = FanOut(self._live)
        self._scripted = scripted  # by dialect

    def __call__(self, target: Target, call: Call) -> Transport:
        transport = self._scripted.get(target.upstream.dialect, self._network)
        return transport if call.fault is None else Faulty(transport, call.fault)

    def retain(self, config: Config) -> None:
        """After a reload: let go of the connections to upstreams that are gone."""
        self._live.retain(config.upstreams.values())

    async def aclose(self) -> None:
        await self._live.aclose()
        for transport in self._scripted.values():
            await transport.aclose()


def scripted(demo_pause_s: float = 0.02) -> Mapping[str, Transport]:
    """The upstreams inside the process, by dialect."""
    return {"demo": Script(Demo(demo_pause_s).answer)}


class Taped(Transports):
    """Transports whose upstreams are recorded into a folder, a cassette a model, or played from it."""

    def __init__(
        self,
        scripted: Mapping[str, Transport],
        folder: Path,
        secrets: Sequence[str] | None,
        hop: str = "",
    ) -> None:
        """Plays, or with `secrets`, which are kept off the tapes, records. Raises CassetteError."""
        super().__init__(scripted, hop)
        self._folder = folder
        self._secrets = secrets
        self._all = Tape(folder) if secrets is None else None
        self._tapes: dict[str, Tape] = {}  # by model, and only configured ones come here

    def __call__(self, target: Target, call: Call) -> Transport:
        inner = self._scripted.get(target.upstream.dialect, self._live)
        transport: Transport = FanOut(self._tape(call.model).of(call.model, inner))
        return transport if call.fault is None else Faulty(transport, call.fault)

    def _tape(self, model: str) -> Tape:
        if self._all is not None:
            return self._all
        tape = self._tapes.get(model)
        if tape is None:
            path = self._folder / f"{quote(model, safe='')}.jsonl"
            tape = self._tapes[model] = Tape(path, mode="all", secrets=self._secrets or ())
        return tape
