"""Redemption codes: 100 random bits that a person can read out, of which only a digest is kept."""

from __future__ import annotations

import hashlib

# Crockford's base 32: no I, L, O, U, so that nothing is misread.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PREFIX = "TH"
LENGTH = 20
RANDOM_BYTES = 16
_MISREAD = str.maketrans("ILO", "110")


def mint(randomness: bytes) -> str:
    """A new code such as TH-7K3QZ-M0R2C-XWB19-4DHEA from at least 16 random bytes."""
    if len(randomness) < RANDOM_BYTES:
        raise ValueError(f"a code needs {RANDOM_BYTES} random bytes")
    number = int.from_bytes(randomness[:RANDOM_BYTES])
    letters = "".join(ALPHABET[number >> (5 * place) & 31] for place in range(LENGTH))
    return "-".join([PREFIX, *(letters[start : start + 5] for start in range(0, LENGTH, 5))])


def digest(code: str) -> bytes | None:
    """What is kept of a code, however it was typed; None for what can't be one."""
    letters = "".join(letter for letter in code[:100].upper() if letter not in " -\t").translate(_MISREAD)
    letters = letters.removeprefix(PREFIX)
    if len(letters) != LENGTH or any(letter not in ALPHABET for letter in letters):
        return None
    return hashlib.sha256(letters.encode()).digest()
