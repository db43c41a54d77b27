"""Turn what SQLite raises into the errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from pitr.errors import CorruptDatabase, DatabaseRefused, Interrupted, PreconditionFailed


def sqlite_says(error: apsw.Error) -> str:
    """Return SQLite's message as a sentence."""
    return f"SQLite says: {str(error).rstrip('.?')}."


@contextmanager
def sqlite_faults(failed: str) -> Iterator[None]:
    """Run a block; raise a PitrError whose message is `failed` for an error of SQLite.

    A PitrError of our own, raised from inside a callback of SQLite, passes unchanged.
    """
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise CorruptDatabase(
            failed,
            detail=sqlite_says(error),
            hint="Run 'pitr verify' on the archive, then try the commit before.",
        ) from error
    except apsw.FullError as error:
        raise PreconditionFailed(
            failed, detail="The disk is full.", hint="Make room, then run the command again."
        ) from error
    except (apsw.CantOpenError, apsw.IOError, apsw.PermissionsError) as error:
        raise PreconditionFailed(failed, detail=sqlite_says(error)) from error
    except apsw.InterruptError as error:
        raise Interrupted(failed) from error
    except apsw.Error as error:
        raise DatabaseRefused(failed, detail=sqlite_says(error)) from error
