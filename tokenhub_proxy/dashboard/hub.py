"""What every page works with: the books, the verbs, the doors and the templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenhub_proxy.admin import Administration
from tokenhub_proxy.config import Config
from tokenhub_proxy.dashboard.access import Access, Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked, Forbidden
from tokenhub_proxy.dashboard.rendering import Pages
from tokenhub_proxy.dashboard.throttle import Throttle
from tokenhub_proxy.errors import NotFound, shown
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import Account
from tokenhub_proxy.ledger.sqlite import SqliteLedger
from tokenhub_proxy.metrics.counters import Counters
from tokenhub_proxy.relay import Relay


@dataclass(frozen=True, slots=True)
class Hub:
    """The parts, and what a visitor may see of them."""

    relay: Relay
    ledger: SqliteLedger
    verbs: Administration
    config: Callable[[], Config]
    counters: Counters
    access: Access
    pages: Pages
    clock: Callable[[], float]
    # Codes that were typed wrong, by who typed them.
    redemptions: Throttle = field(default_factory=Throttle)

    def account(self, asked: Asked, visitor: Visitor) -> str | None:
        """Whose figures are wanted: an owner's own always; an operator's choice, None for all.

        Raises NotFound for an account that does not exist.
        """
        if not visitor.operator:
            return visitor.person.account
        wanted = asked.query.get("account") or asked.field("account") or None
        if wanted is not None and self.ledger.account(wanted) is None:
            raise NotFound(f"There is no account {shown(wanted)}.")
        return wanted

    def keys(self, account: str | None) -> Sequence[Key]:
        """The keys of an account, or of all."""
        return [key for key in self.ledger.list_keys() if account in (None, key.account)]

    def key(self, name: str, visitor: Visitor) -> Key:
        """A key that this visitor may see. Somebody else's is not found, as if it were not there."""
        for key in self.ledger.list_keys():
            if key.name == name and (visitor.operator or key.account == visitor.person.account):
                return key
        raise NotFound(f"There is no key {shown(name)}.")

    def the_account(self, name: str) -> Account:
        """An account as of now. Raises NotFound."""
        account = self.ledger.account(name)
        if account is None:
            raise NotFound(f"There is no account {shown(name)}.")
        return account

    async def perform(self, verb: str, arguments: dict[str, Any], asked: Asked, visitor: Visitor) -> Any:
        """One of the operator's verbs for a visitor, on record under their name."""
        return await self.verbs.perform(verb, arguments, visitor.actor(asked))

    def page(self, asked: Asked, visitor: Visitor | None, template: str, **known: Any) -> Answer:
        """A page, with whose figures an operator is looking at."""
        if visitor is not None:
            known.setdefault("confirmed", self.access.confirmed(visitor))
            known.setdefault("accounts", self._choices(visitor))
            known.setdefault("account", None)
        return self.pages.page(asked, visitor, template, **known)

    def _choices(self, visitor: Visitor) -> Sequence[str]:
        return [account.name for account in self.ledger.list_accounts()] if visitor.operator else []


def operators_only(visitor: Visitor) -> None:
    """Raises Forbidden for owners."""
    if not visitor.operator:
        raise Forbidden("Only operators may do that.")
