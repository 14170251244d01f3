"""A way to run programs in the test's process."""

from support.programs import restored, run

__all__ = ["restored", "run"]
