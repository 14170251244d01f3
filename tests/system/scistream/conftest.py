"""Gateways and applications to test with."""

from support.gateways import application, gateways
from support.module_gateways import own, pair

__all__ = ["application", "gateways", "own", "pair"]
