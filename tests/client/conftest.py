"""The client is tested against a real authority."""

from tests.authority.conftest import initialised, server

__all__ = ["initialised", "server"]
