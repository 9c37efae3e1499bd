"""The carriers of bytes: live sockets, scripts, and (later) tapes."""
