"""A gateway for tests: scripted models, faults on the wire, recorded answers; see docs/testing.md."""

from tokenhub_proxy.testing.answers import Answer, Failure, ToolCall, fail, reply, stream

__all__ = ["Answer", "Failure", "ToolCall", "fail", "reply", "stream"]
