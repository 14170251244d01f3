"""Where a user's files are kept, by the XDG Base Directory specification."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path


class UserFolder(Enum):
    """A kind of files: the variable that says where they are, and where they are without it."""

    CONFIG = "XDG_CONFIG_HOME", "~/.config"
    DATA = "XDG_DATA_HOME", "~/.local/share"
    STATE = "XDG_STATE_HOME", "~/.local/state"

    def path(self) -> Path | None:
        """Return our folder of this kind, which need not be there; None for a user without a home."""
        variable, default = self.value
        directory = Path(os.environ.get(variable, ""))
        if not directory.is_absolute():  # the specification ignores relative ones
            try:
                directory = Path(default).expanduser()
            except RuntimeError:
                return None
        return directory / "scistream"
