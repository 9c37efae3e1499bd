"""People and tokens as verbs: who is invited, blocked, let in again, and what opens the JSON API."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenhub_proxy.errors import InvalidRequest, NotFound, shown
from tokenhub_proxy.ledger import Ledger
from tokenhub_proxy.ledger.people import Door, People, Person, Token
from tokenhub_proxy.receipts import timestamp

OPERATOR = "operator"
LINK_PATH = "/dashboard/link/"
# Somebody who is invited today looks at their mail within the week.
LINK_S = 7 * 86400.0
TOKEN_PREFIX = "th-op-"  # noqa: S105 - what a token begins with
SECRET_BYTES = 32
# A name to sign in with may be an e-mail address.
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a verb, through which door, from where."""

    name: str
    door: Door
    address: str = ""


COMMAND_LINE = Actor(OPERATOR, "command line")


def digest(secret: str) -> bytes:
    """What is kept of a session, a link or a token."""
    return hashlib.sha256(secret.encode()).digest()


class Users:
    """The verbs about people and tokens. `randomness(n)` gives n random bytes."""

    def __init__(
        self,
        ledger: Ledger,
        people: People,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._people = people
        self._clock = clock
        self._randomness = randomness
        # Where links begin, such as http://127.0.0.1:8900; known where a server runs.
        self.address = ""
        self.verbs = {
            "users invite": self.invite,
            "users list": self.list,
            "users block": self.block,
            "users unblock": self.unblock,
            "tokens create": self.tokens_create,
            "tokens list": self.tokens_list,
            "tokens revoke": self.tokens_revoke,
        }

    async def invite(self, arguments: Arguments) -> Any:
        """A link to set a password, for somebody new or somebody who forgot theirs."""
        await self._people.load()
        name = login(arguments.get("name"))
        person = self._people.named(name)
        if person is None:
            person = self._new(name, arguments)
            await self._people.put_person(person)
        elif arguments.get("account") not in (None, person.account):
            raise InvalidRequest(f"{name} is there already, and not of that account.", param="account")
        elif arguments.get("operator") and person.role != "operator":
            raise InvalidRequest(f"{name} is there already, and no operator.", param="operator")
        return person_object(person) | {"link": self.address + await self._link(person)}

    def _new(self, name: str, arguments: Arguments) -> Person:
        operator, account = bool(arguments.get("operator")), arguments.get("account")
        if operator and account:
            raise InvalidRequest("An operator has no account of their own.", param="account")
        if not operator and (not isinstance(account, str) or self._ledger.account(account) is None):
            raise InvalidRequest("Say whose owner that is: an account that exists.", param="account")
        return Person(
            id=f"usr_{self._randomness(8).hex()}",
            name=name,
            role="operator" if operator else "owner",
            account=None if operator else account,
            password=None,
            created_at=self._clock(),
        )

    async def _link(self, person: Person) -> str:
        secret = self._randomness(SECRET_BYTES).hex()
        await self._people.put_link(digest(secret), person, self._clock() + LINK_S)
        return LINK_PATH + secret

    async def first_link(self) -> str | None:
        """The path where the first operator sets a password; None where one has."""
        await self._people.load()
        if any(person.role == "operator" and person.password for person in self._people.everybody()):
            return None
        person = self._people.named(OPERATOR)
        if person is None:
            person = self._new(OPERATOR, {"operator": True})
            await self._people.put_person(person)
        return await self._link(person)

    async def list(self, arguments: Arguments) -> Any:
        await self._people.load()
        return [person_object(person) for person in self._people.everybody()]

    async def block(self, arguments: Arguments) -> Any:
        return await self._block(arguments, self._clock())

    async def unblock(self, arguments: Arguments) -> Any:
        return await self._block(arguments, None)

    async def _block(self, arguments: Arguments, at: float | None) -> Any:
        await self._people.load()
        person = self._people.named(str(arguments.get("name")))
        if person is None:
            raise NotFound(f"There is no user {shown(str(arguments.get('name')))}.")
        others = [
            other
            for other in self._people.everybody()
            if other.role == "operator" and other.blocked_at is None and other.id != person.id
        ]
        if at is not None and person.role == "operator" and not others:
            raise InvalidRequest("The last operator can't be blocked.", param="name")
        await self._people.block(person, at)
        return person_object(replace(person, blocked_at=at))

    # --- tokens

    async def tokens_create(self, arguments: Arguments) -> Any:
        await self._people.load()
        name = login(arguments.get("name"))
        if any(token.name == name for token in self._people.tokens()):
            raise InvalidRequest(f"There is a token {name!r} already.", param="name")
        secret = TOKEN_PREFIX + self._randomness(SECRET_BYTES).hex()
        await self._people.put_token(Token(digest(secret), name, self._clock()))
        return {"name": name, "secret": secret}

    async def tokens_list(self, arguments: Arguments) -> Any:
        await self._people.load()
        return [token_object(token) for token in self._people.tokens()]

    async def tokens_revoke(self, arguments: Arguments) -> Any:
        await self._people.load()
        for token in self._people.tokens():
            if token.name == arguments.get("name"):
                token = replace(token, revoked_at=token.revoked_at or self._clock())
                await self._people.put_token(token)
                return token_object(token)
        raise NotFound(f"There is no token {shown(str(arguments.get('name')))}.")


def login(name: object) -> str:
    """The name somebody signs in with, in lower case. Raises InvalidRequest."""
    text = name.strip().lower() if isinstance(name, str) else ""
    if not _NAME.fullmatch(text):
        raise InvalidRequest(
            "A name to sign in with has 1 to 64 of the characters a-z 0-9 . _ @ + -.", param="name"
        )
    return text


def person_object(person: Person) -> dict[str, Any]:
    """A person as operators see them; the verifier of the password is not in it."""
    state = "active" if person.password else "invited"
    return {
        "name": person.name,
        "role": person.role,
        "account": person.account,
        "state": "blocked" if person.blocked_at is not None else state,
        "created_at": timestamp(person.created_at),
    }


def token_object(token: Token) -> dict[str, Any]:
    """A token as operators see it; its secret is nowhere."""
    return {
        "name": token.name,
        "state": "active" if token.revoked_at is None else "revoked",
        "created_at": timestamp(token.created_at),
    }
