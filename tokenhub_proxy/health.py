"""Which upstreams and credentials are worth asking now: breakers and cool-downs. Time is an argument."""

from __future__ import annotations

from collections import Counter

from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.routes import Target, Upstream

# So many failures in a row say that the next call will fail too.
FAILURES_MAX = 5
# The first pause is short, for most troubles are; it doubles while the probes keep failing.
OPEN_S = 5.0
OPEN_MAX_S = 60.0
# A credential that was refused is an operator's matter: it is tried again, but not all the time.
REFUSED_S = 60.0
# An account out of credit is topped up by people.
UNPAID_S = 300.0
# A rate limit without a Retry-After passes within a fraction of a minute.
LIMITED_S = 5.0
# After a failure it is looked so often whether all is well again.
LOOK_S = 1.0
# Statuses that speak of the credential, not of the upstream.
CREDENTIAL_STATUSES = frozenset({401, 402, 403, 429})
# Kinds that say nothing against the upstream's health: the answer was there, but of no use.
BLAMELESS_KINDS = frozenset({"pool_timeout", "overload"})


class Breaker:
    """One target's recent fortune: closed, open until a time, or letting one probe through."""

    __slots__ = ("_failures", "_open_s", "_probing", "until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._open_s = OPEN_S
        self._probing = False
        self.until_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until this target may be asked; 0 when it may."""
        if now_s < self.until_s:
            return self.until_s - now_s
        return OPEN_S if self._probing else 0.0

    @property
    def open(self) -> bool:
        """True while the target is left alone, or is being probed."""
        return self.until_s > 0.0

    def ask(self) -> None:
        """A call goes out; after a pause it is the one probe that decides."""
        self._probing = self.until_s > 0.0

    def succeeded(self) -> None:
        """An answer began: all is well again."""
        if not self._failures and not self.until_s:
            return
        self._failures = 0
        self._open_s = OPEN_S
        self._probing = False
        self.until_s = 0.0

    def failed(self, now_s: float, pause_s: float | None) -> None:
        """A call failed; a `pause_s` that the upstream asked for is kept at once."""
        self._failures += 1
        if pause_s is not None:
            self.until_s = max(self.until_s, now_s + pause_s)
        elif self._probing or self._failures >= FAILURES_MAX:
            self.until_s = now_s + self._open_s
            self._open_s = min(self._open_s * 2, OPEN_MAX_S)
        self._probing = False

    def left(self) -> None:
        """The call ended without telling anything, because its client left."""
        self._probing = False


class Health:
    """The breakers of all targets and the cool-downs of all credentials."""

    def __init__(self) -> None:
        # As many entries as the configs since the start name targets and credentials.
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._cooling: dict[tuple[str, str], float] = {}  # by upstream and credential, until when
        self._turns: Counter[str] = Counter()  # by upstream, how often a credential was asked for
        self._quiet = True  # nothing has failed since all was last found well
        self._look_s = 0.0  # when that is looked at again

    def breaker(self, target: Target) -> Breaker:
        """The breaker of an upstream's model: one dead model says nothing of the others."""
        place = (target.upstream.name, target.model)
        found = self._breakers.get(place)
        if found is None:
            found = self._breakers[place] = Breaker()
        return found

    def credential(self, upstream: Upstream, now_s: float) -> str | None:
        """Each credential in its turn, but for those that cool down; of these the soonest ready."""
        credentials = upstream.credentials
        if not credentials:
            return None
        if len(credentials) == 1:
            return credentials[0]
        cooling, first = self._cooling, self._turns[upstream.name] % len(credentials)
        self._turns[upstream.name] += 1
        in_turn = credentials[first:] + credentials[:first]
        return min(in_turn, key=lambda one: max(0.0, cooling.get((upstream.name, one), 0.0) - now_s))

    def spare(self, upstream: Upstream, now_s: float) -> bool:
        """True when some credential of this upstream is not cooling down."""
        return any(self._cooling.get((upstream.name, one), 0.0) <= now_s for one in upstream.credentials)

    def well(self, now_s: float) -> bool:
        """True when every target and credential is worth asking now, as nearly always."""
        return self._quiet or (now_s >= self._look_s and self._all_well(now_s))

    def wait_s(self, target: Target, now_s: float) -> float:
        """Seconds until this target is worth asking; 0 when it is now."""
        if self.well(now_s):
            return 0.0
        upstream = target.upstream
        breaker = self._breakers.get((upstream.name, target.model))
        wait_s = 0.0 if breaker is None else breaker.wait_s(now_s)
        if not self._cooling or not upstream.credentials:
            return wait_s
        soonest = min(self._cooling.get((upstream.name, one), 0.0) for one in upstream.credentials)
        return max(wait_s, soonest - now_s)

    def _all_well(self, now_s: float) -> bool:
        """Whether every target and credential may be asked; looked at once a second while one may not."""
        self._look_s = now_s + LOOK_S
        self._quiet = not (
            any(breaker.open for breaker in self._breakers.values())
            or any(until_s > now_s for until_s in self._cooling.values())
        )
        return self._quiet

    def failed(
        self, target: Target, credential: str | None, error: UpstreamUnavailable, now_s: float
    ) -> None:
        """Learn from a failure: what it says of the credential, or of the target."""
        self._quiet = False
        status = error.upstream_status
        if status in CREDENTIAL_STATUSES and credential is not None:
            pause_s = {402: UNPAID_S, 429: error.retry_after_s or LIMITED_S}.get(status, REFUSED_S)
            if error.kind == "quota":
                pause_s = UNPAID_S
            self._cooling[target.upstream.name, credential] = now_s + pause_s
            self.breaker(target).left()
        elif error.kind in BLAMELESS_KINDS:
            self.breaker(target).left()
        else:
            self.breaker(target).failed(now_s, error.retry_after_s)

    def states(self, now_s: float) -> dict[tuple[str, str], float]:
        """Seconds that each open target stays so, by upstream and model: for metrics and pages."""
        return {place: breaker.wait_s(now_s) for place, breaker in self._breakers.items() if breaker.open}

    def cooling(self, now_s: float) -> Counter[str]:
        """How many credentials cool down, by upstream."""
        return Counter(upstream for (upstream, _), until_s in self._cooling.items() if until_s > now_s)
