"""Usage, prices and money: integers only, nanodollars everywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

NANOS_PER_USD = 10**9
TOKENS_PER_PRICE: Final = 10**6
# A ledger row holds a signed 64-bit integer; amounts stay below 9.2 billion dollars.
NANOS_MAX: Final = 9 * 10**18

# A token of ordinary text is about four bytes. Only a call whose upstream reported no usage is
# billed by this, and then it is marked `estimated`.
BYTES_PER_TOKEN: Final = 4

_DECIMAL = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


@dataclass(slots=True, init=False)
class Usage:
    """Tokens of one call, in classes that never overlap.

    `output` includes `reasoning`, which is told but not billed apart. `reported` is true when the
    upstream said it, false when it is an estimate.
    """

    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    reported: bool

    def __init__(
        self,
        input: int = 0,
        cached: int = 0,
        cache_write: int = 0,
        output: int = 0,
        reasoning: int = 0,
        reported: bool = False,
    ) -> None:
        self.input = input
        self.cached = cached
        self.cache_write = cache_write
        self.output = output
        self.reasoning = reasoning
        self.reported = reported

    @property
    def input_total(self) -> int:
        """All tokens that went in: what OpenAI calls `prompt_tokens`."""
        return self.input + self.cached + self.cache_write

    @property
    def total(self) -> int:
        """All tokens of the call."""
        return self.input + self.cached + self.cache_write + self.output


@dataclass(frozen=True, slots=True)
class Price:
    """Nanodollars per million tokens, for each class of `Usage`."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    input_dearest: int = field(init=False, repr=False)  # of the classes that input can be billed in

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_dearest", max(self.input, self.cached, self.cache_write))

    def __deepcopy__(self, memo: object) -> Price:
        return self  # it never changes

    def cost(self, usage: Usage) -> int:
        """What a call costs in nanodollars, rounded up once."""
        whole = usage.input * self.input + usage.output * self.output
        if usage.cached or usage.cache_write:
            whole += usage.cached * self.cached + usage.cache_write * self.cache_write
        return -(-whole // TOKENS_PER_PRICE)

    def ceiling(self, input_max: int, output_max: int) -> int:
        """The most that a call of at most so many tokens can cost, in nanodollars."""
        return -(-(input_max * self.input_dearest + output_max * self.output) // TOKENS_PER_PRICE)

    def affordable_output(self, input_max: int, nanos: int) -> int | None:
        """The most output tokens that `nanos` buys beside the input; None where output is free."""
        if self.output == 0:
            return None
        left = nanos * TOKENS_PER_PRICE - input_max * self.input_dearest
        return max(0, left // self.output)

    @property
    def free(self) -> bool:
        """True when no token of any class costs anything."""
        return not (self.input or self.cached or self.cache_write or self.output)


def estimate_tokens(length_bytes: int) -> int:
    """The tokens of so many bytes of text, when nobody counted them; rounded up."""
    return -(-length_bytes // BYTES_PER_TOKEN)


def parse_usd(text: str) -> int:
    """Nanodollars of a decimal text such as "3.00".

    Raises ValueError, with a message for people, when the text is no plain decimal number, is
    negative, or is finer than a nanodollar.
    """
    # By hand, because Decimal rounds at 28 digits: money is exact or refused.
    found = _DECIMAL.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a plain decimal number")
    sign, number = found.groups()
    whole, _, part = number.partition(".")
    whole, part = whole.lstrip("0"), part.rstrip("0")
    if sign == "-" and (whole or part):
        raise ValueError(f"{text!r} is negative")
    if len(part) > 9:
        raise ValueError(f"{text!r} is finer than a nanodollar (9 decimals)")
    # Python refuses to read thousands of digits; nobody's balance has more than ten.
    nanos = int(whole[:11] + part.ljust(9, "0"))
    if nanos > NANOS_MAX:
        raise ValueError(f"{text!r} is more than {NANOS_MAX // NANOS_PER_USD} USD")
    return nanos


def format_usd(nanos: int) -> str:
    """A decimal text of nanodollars, at least two decimals and never an exponent."""
    if nanos < 0:
        return "-" + format_usd(-nanos)
    digits = str(nanos).zfill(10)
    return f"{digits[:-9]}.{digits[-9:-7]}{digits[-7:].rstrip('0')}"


def format_usd_per_token(nanos_per_million: int) -> str:
    """The price of one token as a decimal text: "0.000003"; "0" is free."""
    if nanos_per_million < 0:
        return "-" + format_usd_per_token(-nanos_per_million)
    digits = str(nanos_per_million).zfill(16)
    return f"{digits[:-15]}.{digits[-15:]}".rstrip("0").rstrip(".")
