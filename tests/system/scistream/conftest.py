"""Gateways and applications to test with."""

from support.gateways import application, gateways

__all__ = ["application", "gateways"]
