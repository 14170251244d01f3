"""Gateways and applications to test with."""

from support.gateways import application, gateways, profiles
from support.module_gateways import own, pair

__all__ = ["application", "gateways", "own", "pair", "profiles"]
