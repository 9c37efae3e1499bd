"""How often one timer for many looks at each of them: at those with a far deadline in one look of eight."""

from __future__ import annotations

from typing import Final

# An answer lies in cold memory: a look at it costs a microsecond, at its turn alone a tenth of that.
TURNS: Final = 8
# In every look.
ALWAYS: Final = -1
# With looks 0.25 and 0.5 s apart a deadline from here on is kept to within 2 and 4 s.
FAR_S: Final = 30.0


def turn(number: int, deadline_s: float) -> int:
    """The turn of the `number`th to come, whose nearest deadline this is."""
    return number % TURNS if deadline_s >= FAR_S else ALWAYS
