"""Who is signed in: sessions, their cookies, their tokens against forged forms, and their ends."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenhub_proxy.dashboard.asked import Asked, Forbidden, same_origin
from tokenhub_proxy.dashboard.passwords import Passwords
from tokenhub_proxy.dashboard.throttle import Throttle
from tokenhub_proxy.errors import InvalidRequest, NotFound
from tokenhub_proxy.ledger.people import Act, People, Person, Session
from tokenhub_proxy.users import SECRET_BYTES, Actor, digest

# Signed in for a week at most, and for half a day without a request.
SESSION_S, IDLE_S = 7 * 86400.0, 12 * 3600.0
# A session's last use is written once in a while, not at every request.
SEEN_S = 60.0
# What is dangerous asks for the password again after so long.
CONFIRMED_S = 600.0
AGENT_LENGTH_MAX = 200
REFUSED = "The name or the password is wrong."


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: a person with their session, and the token that their forms carry."""

    person: Person
    session: Session
    form_token: str

    @property
    def operator(self) -> bool:
        return self.person.role == "operator"

    def actor(self, asked: Asked) -> Actor:
        """How the audit trail names them."""
        return Actor(self.person.name, "dashboard", asked.address)


class Access:
    """The doors of the dashboard."""

    def __init__(
        self,
        people: People,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
        passwords: Passwords | None = None,
    ) -> None:
        self._people = people
        self._clock = clock
        self._randomness = randomness
        self._passwords = passwords or Passwords(randomness)
        self._throttle = Throttle()

    # --- who it is

    async def visitor(self, asked: Asked) -> Visitor | None:
        """Whose session the cookie opens, or None."""
        secret = asked.cookies.get(cookie_name(asked.secure), "")
        session = self._people.session(digest(secret)) if secret else None
        if session is None:
            return None
        person, now = self._people.person(session.person), self._clock()
        if person is None or person.blocked_at is not None or over(session, now):
            await self._people.end_session(session.digest)
            return None
        if now - session.seen_at >= SEEN_S:
            session = replace(session, seen_at=now)
            await self._people.put_session(session)
        return Visitor(person, session, _form_token(secret))

    def check_form(self, asked: Asked, visitor: Visitor | None) -> None:
        """Refuse a change that no page of ours asked for. Raises Forbidden."""
        if not same_origin(asked.headers):
            raise Forbidden("That was asked for by another site.")
        if visitor is not None:
            given = asked.headers.get("X-CSRF-Token") or asked.field("csrf")
            if not hmac.compare_digest(given.encode(), visitor.form_token.encode()):
                raise Forbidden("The page was open too long. Reload it and try again.")

    # --- in and out

    async def sign_in(self, asked: Asked) -> str:
        """Check a name and a password; gives the cookie. Raises InvalidRequest, RateLimited, Busy."""
        name, password = asked.field("name").lower(), asked.form.get("password", [""])[0]
        person = await self._checked(name, password, asked.address)
        if person is None:
            raise InvalidRequest(REFUSED)
        await self._note(asked, person, "signed in")
        return await self.open_session(person, asked)

    async def _checked(self, name: str, password: str, address: str) -> Person | None:
        now = self._clock()
        self._throttle.check(name, address, now)
        self._throttle.failed(name, address, now)
        person = self._people.named(name)
        known = person if person is not None and person.blocked_at is None else None
        if not await self._passwords.right(password, None if known is None else known.password):
            return None
        self._throttle.succeeded(name, address)
        return known

    async def open_session(self, person: Person, asked: Asked) -> str:
        """A new session; gives its cookie."""
        now, secret = self._clock(), self._randomness(SECRET_BYTES).hex()
        await self._people.end_sessions(lambda session: over(session, now))
        agent = asked.headers.get("User-Agent", "")[:AGENT_LENGTH_MAX]
        await self._people.put_session(
            Session(digest(secret), person.id, now, now, now, asked.address, agent)
        )
        return cookie(asked.secure, secret, int(SESSION_S))

    async def sign_out(self, asked: Asked, visitor: Visitor) -> str:
        """End the session; gives the cookie that clears the old one."""
        await self._people.end_session(visitor.session.digest)
        return cookie(asked.secure, "", 0)

    async def end_session(self, visitor: Visitor, shown: str) -> None:
        """End another session of one's own, by the beginning of its digest."""
        for session in self._people.sessions_of(visitor.person.id):
            if session_id(session) == shown:
                await self._people.end_session(session.digest)

    async def end_others(self, visitor: Visitor) -> None:
        """End every session of one's own but this one."""
        mine, digest_ = visitor.person.id, visitor.session.digest
        await self._people.end_sessions(lambda each: each.person == mine and each.digest != digest_)

    # --- passwords

    def invited(self, secret: str) -> Person:
        """Whom a link is for. Raises NotFound for one that is used, old, or was never made."""
        person = self._people.invited(digest(secret), self._clock())
        if person is None:
            raise NotFound("This link was used already, or is too old. Ask for another one.")
        return person

    async def accept(self, asked: Asked, secret: str) -> str:
        """Set a password by a link, which then is used; gives the cookie of a session."""
        self.invited(secret)
        verifier = await self._passwords.verifier(_new_password(asked))
        # Looked up again: of two who use it at once, the second finds it gone.
        person = await self._people.set_password(self.invited(secret), verifier)
        await self._note(asked, person, "set a password")
        return await self.open_session(person, asked)

    async def change_password(self, asked: Asked, visitor: Visitor) -> str:
        """A new password for who knows the old one; gives the cookie of the one session that is left."""
        await self.confirm(asked, visitor, always=True)
        verifier = await self._passwords.verifier(_new_password(asked))
        person = await self._people.set_password(visitor.person, verifier)
        await self._note(asked, person, "changed the password")
        return await self.open_session(person, asked)

    async def put_owner(self, asked: Asked, person: Person) -> str:
        """A new owner with a password of their own choice; gives the cookie of a session."""
        verifier = await self._passwords.verifier(_new_password(asked))
        person = replace(person, password=verifier)
        await self._people.put_person(person)
        await self._note(asked, person, "signed up")
        return await self.open_session(person, asked)

    def confirmed(self, visitor: Visitor) -> bool:
        """Whether the password was asked for lately."""
        return self._clock() - visitor.session.confirmed_at < CONFIRMED_S

    async def confirm(self, asked: Asked, visitor: Visitor, *, always: bool = False) -> None:
        """Before what is dangerous: the password again, unless it was asked for lately.

        Raises InvalidRequest for a wrong one, RateLimited for too many of them.
        """
        if self.confirmed(visitor) and not always:
            return
        password = asked.form.get("password", [""])[0]
        person = await self._checked(visitor.person.name, password, asked.address)
        if person is None:
            raise InvalidRequest("Your password is needed for that, and it was not right.", param="password")
        await self._people.put_session(replace(visitor.session, confirmed_at=self._clock()))

    async def _note(self, asked: Asked, person: Person, verb: str) -> None:
        act = Act(self._clock(), person.name, "dashboard", asked.address, verb, person.name, {})
        await self._people.note(act)


def _new_password(asked: Asked) -> str:
    password = asked.form.get("new_password", [""])[0]
    if password != asked.form.get("again", [""])[0]:
        raise InvalidRequest("The two passwords are not the same.", param="again")
    return password


def over(session: Session, now_s: float) -> bool:
    """Whether a session has ended by its age, or for want of use."""
    return now_s - session.created_at >= SESSION_S or now_s - session.seen_at >= IDLE_S


def session_id(session: Session) -> str:
    """How a page names a session: the beginning of its digest opens nothing."""
    return session.digest.hex()[:16]


def cookie_name(secure: bool) -> str:
    """Over TLS the browser itself guards the name: no other host can set a `__Host-` cookie."""
    return "__Host-tokenhub" if secure else "tokenhub"


def cookie(secure: bool, value: str, age_s: int) -> str:
    """The session's cookie; an age of 0 clears it."""
    tail = "; Secure" if secure else ""
    return f"{cookie_name(secure)}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{tail}"


def preference(secure: bool, name: str, value: str) -> str:
    """A cookie that holds a taste, for a year."""
    tail = "; Secure" if secure else ""
    return f"{name}={value}; Path=/dashboard; Max-Age=31536000; HttpOnly; SameSite=Lax{tail}"


def _form_token(secret: str) -> str:
    return hmac.new(secret.encode(), b"forms", "sha256").hexdigest()
