"""Data servers that run although the journal knows nothing of them: it is not the journal they belong to.

It is new, or was emptied, or has lost its newest changes. An order to a data server is in the journal before
it is given, so a crash alone never leads here. Only the operator can say whether the streams matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scistream.control.journal import Entry
from scistream.core.session import State
from scistream.dataserver.base import LeftRunning
from scistream.errors import ConfigurationError

# A session that is in the journal as one of these has never been told to forward.
_NEVER_FORWARDED = {State.QUEUED, State.REQUESTED, State.RESERVED, State.ANNOUNCED}

_NAMED = 3


def check_known(found: Sequence[LeftRunning], entries: Sequence[Entry], journal: Path) -> None:
    """Refuse to go on where data servers of unknown sessions run, which would have to be ended.

    Parameters
    ----------
    entries : sequence of Entry
        As they are in the journal.

    Raises
    ------
    ConfigurationError
        There are such data servers; the message says which, and what can be done.
    """
    known = {entry.session.key.uid for entry in entries if entry.session.state not in _NEVER_FORWARDED}
    unknown = [one for one in found if one.uid not in known]
    if not unknown:
        return
    uids = ", ".join(one.uid for one in unknown[:_NAMED]) + (" and others" if len(unknown) > _NAMED else "")
    pids = " ".join(str(pid) for pid in sorted({one.pid for one in unknown}))
    raise ConfigurationError(
        f"data servers of {len(unknown)} sessions run (process {pids}; {uids}) that the journal {journal} "
        "does not know: it is new, or has lost changes. Their streams go on. To keep them, put the right "
        f"{journal.name} and {journal.name}-wal back there and start again; to end all streams of this state "
        f"directory, type kill {pids} and start again"
    )
