"""The HTTP API of teaching sessions."""
