"""A streaming gateway: every model behind one OpenAI-compatible key, with books that add up."""

__version__ = "0.1.0"
