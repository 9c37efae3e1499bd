"""The books in memory: accounts, windows and open holds, each guard and its effect one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tokenhub_proxy.errors import IdempotencyConflict, InsufficientQuota, InvalidRequest, LedgerUnavailable
from tokenhub_proxy.keys import Key
from tokenhub_proxy.ledger import (
    DEFAULT_ACCOUNT,
    REMEMBERED_S,
    Account,
    Ending,
    Hold,
    Remembered,
    Window,
)
from tokenhub_proxy.ledger.balances import BALANCE_MAX, RunningAccount, RunningWindow
from tokenhub_proxy.ledger.changes import Booked, Change, Ended, KeyPut, Opened, Placed, Stepped
from tokenhub_proxy.ledger.keyring import Keyring
from tokenhub_proxy.prices import format_usd

ACCOUNT_LENGTH_MAX = 128
# So many Idempotency-Keys are remembered at most (about 300 bytes each).
REMEMBERED_MAX = 200_000
# Windows used in this time are in memory. It spans the longest period that ends, a month, and
# leaves a week for clocks that jump.
WINDOW_KEPT_S = 40 * 86400.0
WINDOW_SPAN_S = 32 * 86400.0
WINDOWS_SWEPT_MIN = 10_000


class Books:
    """The truth for admission, because exactly one process owns the file.

    Money that goes out counts at once; money that comes in, and every change that widens what
    somebody may do, counts when it is durable (`commit`). So any prefix of the changes, in their
    order, is a state the file may be in, and `undo` of a change that could not be written never
    takes back what somebody else was promised.
    """

    def __init__(
        self,
        *,
        accounts: Iterable[Account] = (),
        windows: Iterable[tuple[Window, float]] = (),
        windows_since: float = float("-inf"),
        keys: Iterable[Key] = (),
        remembered: Iterable[tuple[str, str, Remembered]] = (),
        open_holds: Iterable[tuple[int, Hold]] = (),
        next_id: int = 1,
    ) -> None:
        """The books as the file has them; `windows_since` is the oldest use of a window given here."""
        self.keyring = Keyring(keys)
        self._accounts = {account.name: RunningAccount(account) for account in accounts}
        self._accounts.setdefault(DEFAULT_ACCOUNT, RunningAccount(Account(DEFAULT_ACCOUNT, unlimited=True)))
        self._windows = {window.name: RunningWindow(window.posted, window.held, at) for window, at in windows}
        self._windows_since = windows_since
        self._windows_swept = len(self._windows)
        self._remembered = {(key_id, text): what for key_id, text, what in remembered}
        # In the order of their ids, so the first is the oldest.
        self._open = {id_: Placed(id_, hold, durable=True) for id_, hold in open_holds}
        for id_, placed in self._open.items():
            placed.hold.id = id_
        self._next_id = next_id

    # --- what is so now

    def account(self, name: str) -> Account | None:
        account = self._accounts.get(name)
        return None if account is None else account.frozen()

    def accounts(self) -> Sequence[Account]:
        return [self._accounts[name].frozen() for name in sorted(self._accounts)]

    def is_blocked(self, name: str) -> bool:
        return name in self._accounts and self._accounts[name].blocked

    def block(self, name: str, blocked: bool) -> None:
        account = self._account(name)
        account.blocked = blocked
        account.set_floor()

    def window(self, name: str) -> Window:
        window = self._windows.get(name)
        return Window(name) if window is None else Window(name, window.posted, window.held)

    def windows(self) -> Sequence[Window]:
        return [self.window(name) for name in self._windows]

    def open_holds(self) -> Sequence[Hold]:
        return [placed.hold for placed in self._open.values()]

    def standing(self) -> tuple[int, int]:
        """How many holds are open, and the nanodollars that they hold."""
        return len(self._open), sum(placed.hold.amount for placed in self._open.values())

    @property
    def open_count(self) -> int:
        """How many holds are open."""
        return len(self._open)

    @property
    def open_from(self) -> int:
        """Every hold with a smaller id has ended."""
        return next(iter(self._open), self._next_id)

    def remembered(self, key_id: str, idempotency_key: str) -> Remembered | None:
        return self._remembered.get((key_id, idempotency_key))

    # --- holds

    def place(self, hold: Hold) -> Placed:
        """Guard and hold in one step. Raises InsufficientQuota, IdempotencyConflict, InvalidRequest."""
        amount = hold.amount
        if amount < 0 or hold.id:
            raise RuntimeError(f"hold {hold.request_id} is negative or was placed before")
        if hold.idempotency is not None:
            self._check_idempotency(hold.key.id, *hold.idempotency, hold.at)
        account = self._accounts.get(hold.key.account)
        if account is None:
            raise InsufficientQuota(f"There is no account {hold.key.account!r}.", reason="no account")
        left = account.posted - account.held - account.floor
        if amount > left:
            if account.blocked:
                raise InsufficientQuota("The account is blocked.", reason="account blocked")
            raise InsufficientQuota(
                f"The account's balance can't cover this call: it may cost up to {format_usd(amount)} USD, "
                f"{format_usd(left)} USD is available.",
                reason=f"balance need={amount} have={left}",
            )
        if hold.window is not None:
            window = self._window_of(hold.window, hold.at)
            limit = hold.window_limit or 0
            if window.posted + window.held + amount > limit:
                left = max(0, limit - window.posted - window.held)
                raise InsufficientQuota(
                    f"The key's quota can't cover this call: it may cost up to {format_usd(amount)} USD, "
                    f"{format_usd(left)} USD of {format_usd(limit)} USD is left.",
                    reason=f"quota need={amount} have={left}",
                )
            window.held += amount
            window.at = max(window.at, hold.at)
        account.held += amount
        hold.id = self._next_id
        self._next_id += 1
        placed = Placed(hold.id, hold)
        self._open[hold.id] = placed
        if hold.idempotency is not None:
            text, digest = hold.idempotency
            self._remembered[hold.key.id, text] = Remembered(digest, hold.request_id, hold.at)
        return placed

    def end(self, hold: Hold) -> Ended:
        """Take the hold's noted ending into effect. A hold that is not open is a bug of ours."""
        ending = hold.ending
        placed = self._open.get(hold.id)
        if ending is None or placed is None or placed.hold is not hold:
            raise RuntimeError(f"hold {hold.request_id} has no ending or is not open")
        return self.abandon(placed, ending)

    def abandon(self, placed: Placed, ending: Ending) -> Ended:
        """End an open hold; also one that became durable after its caller was told that it had not."""
        hold, cost = placed.hold, ending.cost
        if ending.status == "held" or cost < 0 or (cost and ending.status != "settled"):
            raise RuntimeError(f"hold {hold.request_id} can't end {ending.status} at cost {cost}")
        charge = cost if cost < hold.amount else hold.amount
        if charge and not placed.durable:
            raise RuntimeError(f"hold {hold.request_id} is charged before it was durable")
        del self._open[placed.id]
        account = self._accounts[hold.key.account]
        account.held -= hold.amount
        account.posted -= charge
        if hold.window is not None:
            window = self._windows[hold.window]
            window.held -= hold.amount
            window.posted += charge
        if hold.idempotency is not None:
            name = (hold.key.id, hold.idempotency[0])
            if ending.status == "released":
                # Nothing was produced and nothing charged: the client may try again.
                self._remembered.pop(name, None)
            elif name in self._remembered:
                self._remembered[name] = Remembered(
                    hold.idempotency[1], hold.request_id, hold.at, ending.status, ending.http_status
                )
        return Ended(placed, ending, charge, cost - charge)

    def is_open(self, placed: Placed) -> bool:
        return placed.id in self._open

    def _free(self, placed: Placed) -> None:
        hold = placed.hold
        del self._open[placed.id]
        self._accounts[hold.key.account].held -= hold.amount
        if hold.window is not None:
            self._windows[hold.window].held -= hold.amount

    def _window_of(self, name: str, at: float) -> RunningWindow:
        window = self._windows.get(name)
        if window is not None:
            return window
        if self.forgot(name, at):
            raise LedgerUnavailable("the clock went back while older quotas were being read")
        if len(self._windows) >= max(WINDOWS_SWEPT_MIN, 2 * self._windows_swept):
            self._sweep_windows(at - WINDOW_KEPT_S)
        return self._windows.setdefault(name, RunningWindow())

    def forgot(self, name: str, at: float) -> bool:
        """Whether the file may know this window and memory not: the clock was far ahead before."""
        return name not in self._windows and at - WINDOW_SPAN_S < self._windows_since

    def recall(self, windows: Iterable[tuple[Window, float]], since: float) -> None:
        """Take the file's windows used since then; those in memory are newer than the file's."""
        for window, at in windows:
            self._windows.setdefault(window.name, RunningWindow(window.posted, window.held, at))
        self._windows_since = min(self._windows_since, since)

    def _sweep_windows(self, before: float) -> None:
        self._windows = {
            name: window
            for name, window in self._windows.items()
            if window.held or window.at >= before or name.endswith("/total")
        }
        self._windows_since = max(self._windows_since, before)
        self._windows_swept = len(self._windows)

    def _check_idempotency(self, key_id: str, text: str, digest: bytes, at: float) -> None:
        remembered = self._remembered
        while remembered:  # in the order of their coming; only the oldest can be due
            name, oldest = next(iter(remembered.items()))
            due = oldest.at < at - REMEMBERED_S or len(remembered) >= REMEMBERED_MAX
            if not due or oldest.status == "held":
                break
            del remembered[name]
        known = remembered.get((key_id, text))
        if known is None:
            return
        if known.digest != digest:
            raise InvalidRequest(
                "This Idempotency-Key was used with another body.", reason=f"idempotency {known.request_id}"
            )
        raise IdempotencyConflict(
            f"A call with this Idempotency-Key is still running: {known.request_id}."
            if known.status == "held"
            else f"The call with this Idempotency-Key has ended: see receipt {known.request_id}.",
            reason=f"idempotency {known.request_id}",
            should_retry=False if known.status != "held" else None,
        )

    # --- money

    def credit(self, account: str, amount: int, at: float, note: str, reference: str | None) -> Booked:
        """Money in; it counts when it is durable."""
        found = self._account(account)
        _check_amount(amount)
        if found.posted + amount > BALANCE_MAX:
            raise InvalidRequest(f"{account} would hold more than {format_usd(BALANCE_MAX)} USD.")
        return Booked(account, "credit", amount, at, note, reference)

    def debit(self, account: str, amount: int, at: float, note: str) -> Booked:
        """Money out; it is held back at once. Raises InsufficientQuota."""
        found = self._account(account)
        _check_amount(amount)
        left = found.posted - found.held - found.own_floor
        if amount > left:
            raise InsufficientQuota(
                f"{account} has {format_usd(left)} USD available, {format_usd(amount)} USD are to go out.",
                reason=f"debit need={amount} have={left}",
            )
        found.held += amount
        return Booked(account, "debit", amount, at, note)

    def _account(self, name: str) -> RunningAccount:
        found = self._accounts.get(name)
        if found is None:
            raise InvalidRequest(f"There is no account {name!r}.", reason="no account")
        return found

    # --- accounts and keys

    def open(
        self,
        accounts: Iterable[Account],
        declared: Iterable[Key] | None = None,
        taken: Callable[[], None] | None = None,
    ) -> Opened:
        """New accounts, or another answer to whether they are unlimited; and the config's keys."""
        changed: list[Account] = []
        known = set(self._accounts)
        for account in accounts:
            self._check_account(account)
            known.add(account.name)
            found = self._accounts.get(account.name)
            if found is None or account.unlimited != found.frozen().unlimited:
                changed.append(Account(account.name, account.unlimited))
        keys = None if declared is None else self.keyring.check_declared(declared, known)
        for account in changed:
            found = self._accounts.get(account.name)
            if found is not None and not account.unlimited:
                found.tightening += 1
                found.set_floor()
        return Opened(tuple(changed), keys, taken)

    def _check_account(self, account: Account) -> None:
        name = account.name
        if not name or len(name) > ACCOUNT_LENGTH_MAX or ":" in name or not name.isprintable():
            raise InvalidRequest(f"{name[:ACCOUNT_LENGTH_MAX]!r} can't name an account.")
        if name == DEFAULT_ACCOUNT and not account.unlimited:
            raise InvalidRequest(f"The account {DEFAULT_ACCOUNT!r} is always unlimited.")
        found = self._accounts.get(name)
        narrowed = found is not None and found.frozen().unlimited and not account.unlimited
        if found is not None and narrowed and found.posted < found.held:
            missing = format_usd(found.held - found.posted)
            raise InvalidRequest(f"{name} is {missing} USD below zero; credit it before it becomes prepaid.")

    def put_key(self, key: Key) -> KeyPut:
        """A new key or a new state of one; it counts when it is durable."""
        if key.account not in self._accounts:
            raise InvalidRequest(f"There is no account {key.account!r}.", reason="no account")
        self.keyring.claim(key)
        return KeyPut(key)

    # --- durable, or not

    def commit(self, change: Change) -> None:
        """The change is durable: what waited for that takes effect."""
        if isinstance(change, Placed):
            change.durable = True
        elif isinstance(change, Booked):
            account = self._accounts[change.account]
            if change.kind == "debit":
                account.held -= change.amount
                account.posted -= change.amount
            elif change.fresh:
                account.posted += change.amount
        elif isinstance(change, Opened):
            self._settle_accounts(change, durable=True)
            if change.declared is not None:
                self.keyring.declare(change.declared)
            if change.taken is not None:
                change.taken()
        elif isinstance(change, KeyPut):
            self.keyring.put(change.key)
        elif isinstance(change, Stepped):
            outcome = change.outcome
            if outcome is not None and outcome.order is not None and outcome.moved:
                # A refund may take the balance below zero: the money is gone. It stops keys, not the books.
                self._accounts[outcome.order.account].posted += outcome.moved

    def undo(self, change: Placed | Booked | Opened | KeyPut | Stepped) -> None:
        """The change was not written: as if it had never been asked for."""
        if isinstance(change, Placed):
            if change.id in self._open:
                self._free(change)
            hold = change.hold
            hold.id = 0
            if hold.idempotency is not None:
                self._remembered.pop((hold.key.id, hold.idempotency[0]), None)
        elif isinstance(change, Booked):
            if change.kind == "debit":
                self._accounts[change.account].held -= change.amount
        elif isinstance(change, Opened):
            self._settle_accounts(change, durable=False)
        elif isinstance(change, KeyPut):
            self.keyring.disclaim(change.key)

    def _settle_accounts(self, change: Opened, *, durable: bool) -> None:
        for account in change.accounts:
            found = self._accounts.get(account.name)
            if found is None:
                if durable:
                    self._accounts[account.name] = RunningAccount(account)
                continue
            if not account.unlimited and found.tightening:
                found.tightening -= 1
            if durable:
                found.unlimited = account.unlimited
            found.set_floor()


def _check_amount(amount: int) -> None:
    if not 0 < amount <= BALANCE_MAX:
        raise InvalidRequest(
            f"An amount is more than 0 and at most {format_usd(BALANCE_MAX)} USD, not {amount}."
        )
