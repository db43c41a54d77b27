"""The whole error tree, cut by whose move it is next; every class owns its exit code.

    PitrError
      UsageError            2   the command or an input text is wrong; change the command
        ConfirmationNeeded  2   the command would write to the source and was not confirmed
        TableUnknown        2   no such table at the target
      PreconditionFailed    3   something outside the command has to be mended first
        NotConfigured       3   no pitr.toml, no such source in it
        SourceUnusable      3   the source cannot be captured or read
          SourceUnreachable 3   its server does not answer now; the same may work later
        PrivilegeMissing    3   the role may not do what is asked of the server
        ArchiveHeld         3   another run holds the writer lease
        IdentityMismatch    3   the archive belongs to another source
        StoreUnusable       3   the store cannot be reached, or lacks what the archive rests on
      ArchiveLacks          4   the archive does not hold what the target needs
        OutsideWindow       4   the target is before or after what was archived
        ArchiveGap          4   the target lies where nothing was captured or kept
        ObjectMissing       4   an object that must exist is not in the store
      Corrupt               5   bytes contradict their checksum or their format
        CorruptObject       5   in the archive
        CorruptDatabase     5   in a database file or its WAL
        CorruptWal          5   in the WAL of PostgreSQL
      WrongKey              5   the key at hand does not open an encrypted archive
      DatabaseRefused       6   the database said no; rolled back
      PlanStale             7   rows, keys or schema moved since the plan was made
      Interrupted         130   the user stopped the command

A message has three parts. The first says what could not be done: one line, lower case, no full
stop. `detail` gives facts with positions. `hint` is a full sentence with the next command; an
error without one shows the `usual_hint` of its class.
Data stays in fields; text is made here, in the class, so that one fault always reads the same.
"""

from __future__ import annotations

from typing import ClassVar


class PitrError(Exception):
    """Report a failure that a user can act on. Never raised for a bug of ours."""

    exit_code: ClassVar[int] = 70
    usual_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    @property
    def advice(self) -> str | None:
        """Return the hint, else what usually helps with errors of this class."""
        return self.hint or self.usual_hint

    @property
    def sentence(self) -> str:
        """Return message and detail as one text, for where another message quotes this one."""
        return f"{self.message}. {self.detail or ''}".strip()


class UsageError(PitrError):
    """Report a command or an input text that cannot be understood or is not allowed."""

    exit_code = 2
    usual_hint = "Change the command: '--help' behind it says what it takes."


class ConfirmationNeeded(UsageError):
    """Report that a command which writes to the source was not confirmed; nothing was written."""


class TableUnknown(UsageError):
    """Report a table that does not exist at the target; `table` is its name as the user has it."""

    def __init__(
        self,
        message: str,
        *,
        table: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.table = table
        super().__init__(message, detail=detail, hint=hint)


class PreconditionFailed(PitrError):
    """Report something outside the command that has to be mended first."""

    exit_code = 3
    usual_hint = "Mend that, then run the command again."


class NotConfigured(PreconditionFailed):
    """Report that no configuration names the source or the archive."""


class SourceUnusable(PreconditionFailed):
    """Report a source that cannot be captured or read as it stands."""


class SourceUnreachable(SourceUnusable):
    """Report a server that does not answer now, or lost the connection: worth another try."""


class PrivilegeMissing(PreconditionFailed):
    """Report a role that the server does not let do what is asked."""


class ArchiveHeld(PreconditionFailed):
    """Report that another run holds the writer lease of the archive."""


class IdentityMismatch(PreconditionFailed):
    """Report an archive that holds another source than the one named."""


class SidecarFailed(PreconditionFailed):
    """Report a private server on recovered files that did not recover or start; quotes its log."""


class StoreUnusable(PreconditionFailed):
    """Report a store that cannot be reached or that lacks what an archive rests on."""


class ArchiveLacks(PitrError):
    """Report that the archive does not hold what the target needs."""

    exit_code = 4
    usual_hint = "Run 'pitr status' to see the recoverable window."


class OutsideWindow(ArchiveLacks):
    """Report a target before the first or after the last archived moment."""


class ArchiveGap(ArchiveLacks):
    """Report a target inside a stretch where nothing was captured, or where it was not kept."""


class ObjectMissing(ArchiveLacks):
    """Report an object that the archive needs and the store does not have."""

    def __init__(self, key: str, *, location: str, hint: str | None = None) -> None:
        self.key = key
        self.location = location
        super().__init__(
            f"archive object is missing: {key}",
            detail=f"The store at {location} has no object of this name.",
            hint=hint or "Run 'pitr verify' to see what else is missing and which targets remain.",
        )


class Corrupt(PitrError):
    """Report bytes that contradict their checksum or their format."""

    exit_code = 5
    usual_hint = (
        "'pitr verify' says whether the archive is sound; copy a file from elsewhere again."
    )


class CorruptObject(Corrupt):
    """Report an archive object that is torn, cut short or altered."""

    def __init__(self, key: str, reason: str, *, hint: str | None = None) -> None:
        self.key = key
        self.reason = reason
        super().__init__(
            f"archive object is damaged: {key}",
            detail=reason,
            hint=hint or "Run 'pitr verify' to see every damaged object and which targets remain.",
        )


class CorruptDatabase(Corrupt):
    """Report a database page or WAL frame that contradicts the file format."""


class CorruptWal(Corrupt):
    """Report a WAL segment, record or history file of PostgreSQL that contradicts its format."""


class WrongKey(PitrError):
    """Report a key or a passphrase that does not open an encrypted archive, or an object of it."""

    exit_code = 5
    usual_hint = "Name the archive's key with --key-file FILE or PITR_PASSPHRASE."


class DatabaseRefused(PitrError):
    """Report that the database refused a statement; the transaction was rolled back."""

    exit_code = 6
    usual_hint = "Mend what the database says, then run the command again."


class PlanStale(PitrError):
    """Report a plan whose rows, keys or schema have moved since it was made."""

    exit_code = 7
    usual_hint = "Run 'pitr plan' again and look at it."


class Interrupted(PitrError):
    """Report that the user stopped the command."""

    exit_code = 130
