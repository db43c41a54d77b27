"""What differs between the WAL of PostgreSQL 13 to 18, by page magic.

Source: src/include/access/xlog_internal.h (XLOG_PAGE_MAGIC), xlogrecord.h, rmgrlist.h and the
headers of the resource managers, of the branches REL_13_STABLE to REL_18_STABLE.
"""

from __future__ import annotations

from dataclasses import dataclass

from pitr.errors import SourceUnusable

MAJOR_MIN = 13
MAJOR_MAX = 18
CUSTOM_RMGR_MIN = 128
RMGR_NAMES = (
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
)
(
    RM_XLOG,
    RM_XACT,
    RM_SMGR,
    RM_CLOG,
    RM_DBASE,
    RM_TBLSPC,
    RM_MULTIXACT,
    RM_RELMAP,
    RM_STANDBY,
    RM_HEAP2,
    RM_HEAP,
) = range(11)
RM_COMMIT_TS = 18


@dataclass(frozen=True, slots=True)
class WalVersion:
    """The format of one major version.

    `image_apply` is the bit of a page image that redo restores it; `image_methods` maps a bit to
    the compression that it stands for.
    """

    major: int
    magic: int
    image_apply: int
    image_methods: dict[int, str]

    @property
    def image_compressed(self) -> int:
        """Return the bits any of which says that a page image is compressed."""
        return sum(self.image_methods)

    @property
    def has_custom_rmgrs(self) -> bool:
        """Return whether extensions may write records of their own (ids 128 to 255)."""
        return self.major >= 15

    @property
    def has_toplevel_xid(self) -> bool:
        """Return whether a record may carry the xid of its top-level transaction."""
        return self.major >= 14

    def has_rmgr(self, rmgr: int) -> bool:
        """Return whether a record of this resource manager can exist."""
        return rmgr < len(RMGR_NAMES) or (self.has_custom_rmgrs and rmgr >= CUSTOM_RMGR_MIN)


_OLD_METHODS = {0x02: "pglz"}
_METHODS = {0x04: "pglz", 0x08: "lz4", 0x10: "zstd"}
_VERSIONS = {
    version.magic: version
    for version in (
        WalVersion(13, 0xD106, 0x04, _OLD_METHODS),
        WalVersion(14, 0xD10D, 0x04, _OLD_METHODS),
        WalVersion(15, 0xD110, 0x02, _METHODS),
        WalVersion(16, 0xD113, 0x02, _METHODS),
        WalVersion(17, 0xD116, 0x02, _METHODS),
        WalVersion(18, 0xD118, 0x02, _METHODS),
    )
}
_BY_MAJOR = {version.major: version for version in _VERSIONS.values()}


def find_version(magic: int) -> WalVersion | None:
    """Return the version whose pages have this magic number, or None."""
    return _VERSIONS.get(magic)


def version_of_magic(magic: int) -> WalVersion:
    """Return the version whose pages have this magic number. Raises SourceUnusable."""
    version = _VERSIONS.get(magic)
    if version is None:
        raise SourceUnusable(
            f"WAL of an unknown version of PostgreSQL: page magic {magic:04X}",
            detail=f"pitr reads the WAL of PostgreSQL {MAJOR_MIN} to {MAJOR_MAX}.",
            hint="A newer version of pitr may know it: see its CHANGELOG.md.",
        )
    return version


def version_of_major(major: int) -> WalVersion:
    """Return the version of a major release, such as 17. Raises SourceUnusable."""
    version = _BY_MAJOR.get(major)
    if version is None:
        raise SourceUnusable(
            f"PostgreSQL {major} is not supported",
            detail=f"pitr reads the WAL of PostgreSQL {MAJOR_MIN} to {MAJOR_MAX}.",
            hint="A newer version of pitr may know it: see its CHANGELOG.md.",
        )
    return version


def rmgr_name(rmgr: int) -> str:
    """Return the name of a resource manager as pg_waldump prints it."""
    return RMGR_NAMES[rmgr] if rmgr < len(RMGR_NAMES) else f"custom{rmgr:03}"
