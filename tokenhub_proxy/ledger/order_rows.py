"""Steps of orders as rows: the file decides, within the transaction that also has the entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from tokenhub_proxy.errors import InvalidRequest, NotFound
from tokenhub_proxy.ledger import WORLD
from tokenhub_proxy.ledger.orders import (
    CODES,
    INTERNAL,
    OPEN_ORDERS_MAX,
    WEBHOOKS_MAX,
    AskRefund,
    Attach,
    Close,
    Complete,
    Create,
    Log,
    Mint,
    Observe,
    Order,
    Outcome,
    Redeem,
    Refunded,
    Step,
    Verdict,
)
from tokenhub_proxy.ledger.schema_orders import ORDER_COLUMNS

# ruff: noqa: S608 - the parts of the queries are our own column names, values are bound

_NAMES = tuple(field.name for field in fields(Order))
_INSERT = f"INSERT INTO orders ({ORDER_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"
_SELECT = f"SELECT {ORDER_COLUMNS} FROM orders"
_MOVING = (
    "state", "payment", "redirect_url", "credited", "refunding", "refunded", "returned", "expires_at",
    "updated_at", "note",
)  # fmt: skip
_UPDATE = f"UPDATE orders SET {', '.join(f'{name} = ?' for name in _MOVING)} WHERE id = ?"
_MOVE = "UPDATE accounts SET posted = posted + ?, refunded = refunded + ? WHERE name = ?"
_ADD_EVENT = (
    "INSERT INTO order_events (at, order_id, provider, payment, kind, amount, entry, note)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_UNCHANGED: Verdict = "unchanged"
_OPEN = "state = 'created' OR state = 'pending'"


def order_of(row: Sequence[Any]) -> Order:
    """The order of a row of ORDER_COLUMNS."""
    values = dict(zip(_NAMES, row, strict=True))
    return Order(**{**values, "test": bool(values["test"])})


class OrderRows:
    """Takes steps inside a transaction of the caller's.

    `enter` writes an entry of these columns and gives its id: at, kind, debit, credit, amount,
    request id, window, reference, note.
    """

    def __init__(self, connection: Any, enter: Callable[..., int]) -> None:
        self._execute = connection.execute
        self._enter = enter
        self._moved = 0

    def take(self, step: Step) -> Outcome:
        """What the step comes to. Raises InvalidRequest or NotFound, with nothing written, where it can't."""
        self._moved = 0
        verdict, order = self._take(step)
        return Outcome(verdict, order, self._moved)

    def _take(self, step: Step) -> tuple[Verdict, Order | None]:
        match step:
            case Create():
                return self._create(step)
            case Attach():
                return self._attach(step)
            case Observe():
                return self._observe(step)
            case Close():
                return self._close(step)
            case Complete():
                return self._complete(step)
            case AskRefund():
                return self._ask_refund(step)
            case Refunded():
                return self._refund_by_hand(step)
            case Redeem():
                return self._redeem(step)
            case Mint():
                return self._mint(step)
            case Log():
                return self._log(step)

    # --- the way of an order

    def _create(self, step: Create) -> tuple[Verdict, Order]:
        order = step.order
        known = self._find(order.id)
        if known is not None:
            if (known.account, known.provider, known.nanos) != (order.account, order.provider, order.nanos):
                raise InvalidRequest(f"The order id {order.id!r} was used for something else.", param="id")
            return "unchanged", known
        (count,) = self._execute(
            f"SELECT count(*) FROM orders WHERE account = ? AND ({_OPEN})", (order.account,)
        ).fetchone()
        if count >= OPEN_ORDERS_MAX:
            raise InvalidRequest(f"{order.account} has {count} orders that wait for their money already.")
        if step.spread is not None:
            order = self._spread(step)
        order = replace(order, updated_at=order.created_at)
        self._execute(_INSERT, tuple(getattr(order, name) for name in _NAMES))
        self._note(order, order.created_at, "created", order.id, order.amount)
        return "created", order

    def _spread(self, step: Create) -> Order:
        order, spread = step.order, step.spread
        assert spread is not None
        top = order.amount + spread.step * spread.count
        rows = self._execute(
            "SELECT amount FROM orders WHERE provider = ? AND amount > ? AND amount <= ? AND created_at >= ?",
            (order.provider, order.amount, top, spread.since),
        ).fetchall()
        taken = {row[0] for row in rows}
        for turn in range(spread.count):
            number = (spread.first + turn - 1) % spread.count + 1
            amount = order.amount + number * spread.step
            if amount not in taken:
                return replace(order, amount=amount, nanos=amount * spread.nanos_per_unit)
        raise InvalidRequest("Too many orders of this sum are open; choose another sum, or try again later.")

    def _attach(self, step: Attach) -> tuple[Verdict, Order | None]:
        order = self._get(step.order)
        if order.redirect_url is not None or order.state not in ("created", "pending"):
            return "unchanged", order
        attached = replace(
            order,
            payment=order.payment or step.payment,
            redirect_url=order.redirect_url or step.redirect_url,
            state="pending" if order.state == "created" else order.state,
        )
        self._note(order, step.at, "attached", self._mark(order), note=step.payment or "")
        return "attached", self._save(attached, step.at)

    def _observe(self, step: Observe) -> tuple[Verdict, Order | None]:
        order = self._find(step.order)
        if order is None:
            return "unknown_order", None
        if order.provider != step.provider:
            return "wrong_provider", order
        owner = self._owner(step.provider, step.payment, "paid")
        if owner is not None and owner != order.id:
            return "duplicate", order
        before, verdict = order, _UNCHANGED
        mine = order.payment is None or order.payment == step.payment
        if step.state == "paid":
            verdict, order = self._paid(order, step)
        elif step.state == "canceled" and order.state in ("created", "pending") and mine:
            verdict, order = "canceled", replace(order, state="canceled", note=step.note)
            self._note(order, step.at, "canceled", step.payment, note=step.note)
        if order.payment is None:
            order = replace(order, payment=step.payment)
        if order.state == "created":
            order = replace(order, state="pending")
        # A payment that is not this order's own gives nothing back of it either.
        refunded = min(step.refunded, order.amount) if step.payment == order.payment else 0
        if refunded > order.refunded:
            order = self._give_back(replace(order, refunded=refunded), step.at, step.payment)
            verdict = "refunded" if verdict in ("unchanged", "credited") else verdict
        return verdict, order if order == before else self._save(order, step.at)

    def _paid(self, order: Order, step: Observe) -> tuple[Verdict, Order]:
        if order.credited:
            if step.payment == order.payment:
                return "unchanged", order
            if self._owner(step.provider, step.payment, "review") is not None:
                return "second_payment", order
            return self._review(order, step, "second_payment", f"paid once more: {step.payment}")
        mismatch = self._mismatch(order, step)
        if mismatch is not None:
            if self._owner(step.provider, step.payment, "review") is not None:
                return mismatch[0], order
            return self._review(order, step, *mismatch)
        if order.state == "needs_review":
            return "needs_review", order
        return "credited", self._credit(replace(order, payment=step.payment), step.at, "paid")

    def _mismatch(self, order: Order, step: Observe) -> tuple[Verdict, str] | None:
        if step.currency != order.currency:
            return "wrong_currency", f"paid in {step.currency}, not {order.currency}"
        if step.amount != order.amount:
            return "wrong_amount", f"paid {step.amount}, not {order.amount} minor units of {order.currency}"
        if step.test != order.test:
            return "wrong_mode", "a test payment for a live order, or the other way round"
        other = self._execute(
            "SELECT id FROM orders WHERE account = ? AND test <> ? AND credited > 0"
            f" AND provider NOT IN ({', '.join('?' * len(INTERNAL))}) LIMIT 1",
            (order.account, order.test, *INTERNAL),
        ).fetchone()
        if other is not None:
            return "wrong_mode", "test money and live money in one account"
        return None

    def _review(self, order: Order, step: Observe, verdict: Verdict, why: str) -> tuple[Verdict, Order]:
        self._note(order, step.at, "review", step.payment, step.amount, note=why)
        return verdict, replace(order, state="needs_review", note=why)

    def _credit(self, order: Order, at: float, kind: str, note: str = "") -> Order:
        payment = order.payment or order.id
        entry = self._enter(
            at, "credit", WORLD, order.account, order.nanos, None, None,
            f"payment:{order.provider}:{payment}:paid", f"order {order.id}",
        )  # fmt: skip
        self._note(order, at, "paid", payment, order.amount, entry, note)
        self._move(order, order.nanos, 0)
        return replace(order, state="paid", credited=order.nanos, payment=payment, note=note)

    def _give_back(self, order: Order, at: float, payment: str, note: str = "") -> Order:
        """Book what belongs to `order.refunded` and is not booked yet; all of it takes back all."""
        owed = order.credited * order.refunded // order.amount - order.returned
        entry = None
        if owed > 0:
            entry = self._enter(
                at, "debit", order.account, WORLD, owed, None, None,
                f"payment:{order.provider}:{payment}:refund:{order.refunded}", f"refund of order {order.id}",
            )  # fmt: skip
            self._move(order, -owed, owed)
        self._note(order, at, f"refund:{order.refunded}", payment, order.refunded, entry, note)
        whole = order.refunded == order.amount
        return replace(
            order,
            returned=order.returned + max(owed, 0),
            refunding=max(order.refunding, order.refunded),
            state="refunded" if whole else order.state,
        )

    def _close(self, step: Close) -> tuple[Verdict, Order]:
        order = self._get(step.order)
        if order.credited or order.state not in ("created", "pending", "needs_review"):
            return "unchanged", order
        if order.state == step.state or (order.state == "needs_review" and step.state == "expired"):
            return "unchanged", order
        self._note(order, step.at, step.state, self._mark(order), note=step.note)
        return step.state, self._save(replace(order, state=step.state, note=step.note), step.at)

    # --- by hand

    def _complete(self, step: Complete) -> tuple[Verdict, Order]:
        order = self._get(step.order)
        if order.credited:
            if order.state != "needs_review":
                return "unchanged", order
            self._note(order, step.at, "reviewed", self._mark(order), note=step.note)
            order = replace(order, state="refunded" if order.refunded == order.amount else "paid")
            return "completed", self._save(replace(order, note=step.note), step.at)
        payment = step.payment or order.payment or order.id
        owner = self._owner(order.provider, payment, "paid")
        if owner is not None:
            raise InvalidRequest(f"The payment {payment!r} was credited to order {owner}.", param="payment")
        order = self._credit(replace(order, payment=payment), step.at, "paid", step.note)
        if order.refunded:
            order = self._give_back(order, step.at, self._mark(order))
        return "completed", self._save(order, step.at)

    def _ask_refund(self, step: AskRefund) -> tuple[Verdict, Order]:
        order = self._get(step.order)
        if not order.credited:
            raise InvalidRequest(f"Order {order.id} was not credited; there is nothing to refund.")
        if not order.refunded <= step.refunding <= order.amount:
            raise InvalidRequest(f"Of order {order.id} that much can't be refunded.", param="amount")
        if step.refunding == order.refunding:
            return "unchanged", order
        self._note(order, step.at, "refund_asked", self._mark(order), step.refunding, note=step.note)
        return "refund_asked", self._save(replace(order, refunding=step.refunding, note=step.note), step.at)

    def _refund_by_hand(self, step: Refunded) -> tuple[Verdict, Order]:
        order = self._get(step.order)
        if not order.credited or not order.refunded < step.refunded <= order.amount:
            raise InvalidRequest(f"Of order {order.id} that much can't be refunded.", param="amount")
        order = replace(order, refunded=step.refunded, note=step.note)
        order = self._give_back(order, step.at, order.payment or order.id, step.note)
        return "refunded", self._save(order, step.at)

    # --- codes and the log

    def _mint(self, step: Mint) -> tuple[Verdict, None]:
        for code in step.codes:
            self._execute(
                "INSERT INTO codes VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                (code.digest, code.nanos, code.created_at, code.expires_at, code.note),
            )
        return "minted", None

    def _redeem(self, step: Redeem) -> tuple[Verdict, Order]:
        row = self._execute(
            "SELECT nanos, expires_at, used_at FROM codes WHERE digest = ?", (step.digest,)
        ).fetchone()
        # One answer to all that is wrong: whoever guesses learns nothing.
        if row is None or row[2] is not None or (row[1] is not None and row[1] <= step.at):
            raise NotFound("No such code, or it was used or has expired.")
        cents = max(1, row[0] // 10**7)
        order = Order(
            step.order, step.account, CODES, "code", cents, "USD", row[0], step.at, step.at,
            payment=step.digest.hex(), updated_at=step.at,
        )  # fmt: skip
        self._execute(_INSERT, tuple(getattr(order, name) for name in _NAMES))
        self._execute(
            "UPDATE codes SET order_id = ?, used_at = ? WHERE digest = ? AND used_at IS NULL",
            (order.id, step.at, step.digest),
        )
        return "redeemed", self._save(self._credit(order, step.at, "paid"), step.at)

    def _log(self, step: Log) -> tuple[Verdict, None]:
        hook = step.webhook
        self._execute(
            "INSERT INTO webhooks (at, provider, peer, length, event, payment, order_id, verdict)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                hook.at, hook.provider, hook.peer, hook.length, hook.event, hook.payment, hook.order,
                hook.verdict,
            ),
        )  # fmt: skip
        self._execute("DELETE FROM webhooks WHERE id <= (SELECT max(id) FROM webhooks) - ?", (WEBHOOKS_MAX,))
        return "logged", None

    # --- rows

    def _find(self, id: str) -> Order | None:
        row = self._execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
        return None if row is None else order_of(row)

    def _get(self, id: str) -> Order:
        order = self._find(id)
        if order is None:
            raise NotFound(f"There is no order {id!r}.")
        return order

    def _owner(self, provider: str, payment: str, kind: str) -> str | None:
        """The order that this event of a payment belongs to, if it happened."""
        row = self._execute(
            "SELECT order_id FROM order_events WHERE provider = ? AND payment = ? AND kind = ?",
            (provider, payment, kind),
        ).fetchone()
        return None if row is None else str(row[0])

    def _mark(self, order: Order) -> str:
        """What stands for a payment in an event that is ours alone: a name that no other event has."""
        (count,) = self._execute(
            "SELECT count(*) FROM order_events WHERE order_id = ?", (order.id,)
        ).fetchone()
        return f"{order.id}#{count}"

    def _save(self, order: Order, at: float) -> Order:
        order = replace(order, updated_at=at)
        self._execute(_UPDATE, (*(getattr(order, name) for name in _MOVING), order.id))
        return order

    def _move(self, order: Order, posted: int, refunded: int) -> None:
        self._execute(_MOVE, (posted, refunded, order.account))
        self._moved += posted

    def _note(
        self, order: Order, at: float, kind: str, payment: str, amount: int = 0, entry: int | None = None,
        note: str = "",
    ) -> None:  # fmt: skip
        self._execute(_ADD_EVENT, (at, order.id, order.provider, payment, kind, amount, entry, note))
