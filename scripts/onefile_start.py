"""The beginning of tokenhub-proxy.pyz: a Python that fits, a folder to unpack into, then shiv's own start."""

from __future__ import annotations

import os
import stat
import sys
from typing import NoReturn

# Written by scripts/onefile.py: the Python and the C library that it fits, and what it holds.
BUILT_FOR = ["", ""]
BUILD_ID = ""
NAME = "tokenhub-proxy"
WRONG = 2


def stop(message: str) -> NoReturn:
    sys.stderr.write(f"{os.path.basename(sys.argv[0])} {message}\n")
    sys.exit(WRONG)


def candidates() -> list[str]:
    """Where the parts may be unpacked, the best place first."""
    if os.environ.get("SHIV_ROOT"):
        return [os.path.expanduser(os.environ["SHIV_ROOT"])]
    places = []
    if os.environ.get("CACHE_DIRECTORY"):  # systemd's, which with DynamicUser= is a link of its own making
        places.append(os.path.realpath(os.environ["CACHE_DIRECTORY"].partition(":")[0]))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places.append(os.path.join(cache, NAME))
    places.append(os.path.join(os.environ.get("TMPDIR") or "/tmp", f"{NAME}-{os.getuid()}"))
    return [place for place in places if os.path.isabs(place)]


def ours(place: str) -> bool:
    """True when nobody else can put code there: in a folder that all write to, anybody could have made it."""
    found = os.lstat(place)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def root() -> str:
    """The folder to unpack into, or to start from what was unpacked there."""
    unpacked = f"{os.path.basename(os.path.realpath(sys.argv[0]))}_{BUILD_ID}"
    places = candidates()
    for place in places:
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            safe = "SHIV_ROOT" in os.environ or ours(place)
        except OSError:
            continue
        if safe and (os.path.isdir(os.path.join(place, unpacked)) or os.access(place, os.W_OK | os.X_OK)):
            return place
    stop(
        f"unpacks itself once, and can't write to {' or '.join(places)}. "
        "Set SHIV_ROOT to a folder of your own that it can write to."
    )


def main() -> None:
    """Become the program."""
    have = [sys.implementation.cache_tag + sys.abiflags, getattr(sys.implementation, "_multiarch", "")]
    if have != BUILT_FOR:
        stop(
            f"is made for {' on '.join(BUILT_FOR)}; this Python is {' on '.join(have)}. "
            "Start it with one that fits, or take the file that needs no Python."
        )
    os.environ["SHIV_ROOT"] = root()
    import _bootstrap  # shiv's

    _bootstrap.bootstrap()


main()
