"""Socket activation: the listening socket that a supervisor holds open across restarts and hands over."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from tokenhub_proxy.errors import ProxyError

# The first of the descriptors that are handed over; see sd_listen_fds(3).
FIRST_DESCRIPTOR = 3


class NotListening(ProxyError):
    """What was handed over is not one listening TCP socket."""

    def __init__(self, found: str) -> None:
        super().__init__(f"LISTEN_FDS hands over {found}, where one listening TCP socket is wanted.")


def inherited(environ: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """The socket that was handed over to this process by LISTEN_PID and LISTEN_FDS; None without one.

    The variables are taken out of `environ`: no child may believe that they are for it. Raises
    NotListening.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return None
    count = environ.pop("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if count != "1":
        raise NotListening(f"{count or 'no'} sockets")
    try:
        os.set_inheritable(FIRST_DESCRIPTOR, False)
        found = socket.socket(fileno=FIRST_DESCRIPTOR)
    except OSError as error:
        raise NotListening(f"no socket ({error.strerror})") from None
    if found.family not in (socket.AF_INET, socket.AF_INET6) or not _listens(found):
        raise NotListening("another kind of socket")
    return found


def _listens(found: socket.socket) -> bool:
    return found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
