"""The names of operations, as pg_waldump prints them.

Source: the identify functions in src/backend/access/rmgrdesc/, 13 to 18.
"""

from __future__ import annotations

from pitr.postgres.wal.record import RecordHeader
from pitr.postgres.wal.versions import RM_DBASE, RM_HEAP2, RM_XACT, RMGR_NAMES, WalVersion

# By resource manager: the names of the operations 0x00, 0x10, 0x20 …; a dot for none.
_NAMES = {
    "XLOG": "CHECKPOINT_SHUTDOWN CHECKPOINT_ONLINE NOOP NEXTOID SWITCH BACKUP_END PARAMETER_CHANGE"
    " RESTORE_POINT FPW_CHANGE END_OF_RECOVERY FPI_FOR_HINT FPI . OVERWRITE_CONTRECORD"
    " CHECKPOINT_REDO",
    "Transaction": "COMMIT PREPARE ABORT COMMIT_PREPARED ABORT_PREPARED ASSIGNMENT INVALIDATION",
    "Storage": ". CREATE TRUNCATE",
    "CLOG": "ZEROPAGE TRUNCATE",
    "Database": "CREATE_FILE_COPY CREATE_WAL_LOG DROP",
    "Tablespace": "CREATE DROP",
    "MultiXact": "ZERO_OFF_PAGE ZERO_MEM_PAGE CREATE_ID TRUNCATE_ID",
    "RelMap": "UPDATE",
    "Standby": "LOCK RUNNING_XACTS INVALIDATIONS",
    "Heap2": "REWRITE PRUNE_ON_ACCESS PRUNE_VACUUM_SCAN PRUNE_VACUUM_CLEANUP VISIBLE MULTI_INSERT"
    " LOCK_UPDATED NEW_CID . . . . . MULTI_INSERT+INIT",
    "Heap": "INSERT DELETE UPDATE TRUNCATE HOT_UPDATE HEAP_CONFIRM LOCK INPLACE INSERT+INIT ."
    " UPDATE+INIT . HOT_UPDATE+INIT",
    "Btree": "INSERT_LEAF INSERT_UPPER INSERT_META SPLIT_L SPLIT_R INSERT_POST DEDUP DELETE"
    " UNLINK_PAGE UNLINK_PAGE_META NEWROOT MARK_PAGE_HALFDEAD VACUUM REUSE_PAGE META_CLEANUP",
    "Hash": "INIT_META_PAGE INIT_BITMAP_PAGE INSERT ADD_OVFL_PAGE SPLIT_ALLOCATE_PAGE SPLIT_PAGE"
    " SPLIT_COMPLETE MOVE_PAGE_CONTENTS SQUEEZE_PAGE DELETE SPLIT_CLEANUP UPDATE_META_PAGE"
    " VACUUM_ONE_PAGE",
    "Gin": ". CREATE_PTREE INSERT SPLIT VACUUM_PAGE DELETE_PAGE UPDATE_META_PAGE INSERT_LISTPAGE"
    " DELETE_LISTPAGE VACUUM_DATA_LEAF_PAGE",
    "Gist": "PAGE_UPDATE DELETE PAGE_REUSE PAGE_SPLIT . . PAGE_DELETE ASSIGN_LSN",
    "Sequence": "LOG",
    "SPGist": ". ADD_LEAF MOVE_LEAFS ADD_NODE SPLIT_TUPLE PICKSPLIT VACUUM_LEAF VACUUM_ROOT"
    " VACUUM_REDIRECT",
    "BRIN": "CREATE_INDEX INSERT UPDATE SAMEPAGE_UPDATE REVMAP_EXTEND DESUMMARIZE . . . INSERT+INIT"
    " UPDATE+INIT",
    "CommitTs": "ZEROPAGE TRUNCATE",
    "ReplicationOrigin": "SET DROP",
    "Generic": "Generic",
    "LogicalMessage": "MESSAGE",
}
_TABLE = {
    (rmgr, number << 4): operation
    for rmgr, name in enumerate(RMGR_NAMES)
    for number, operation in enumerate(_NAMES[name].split())
    if operation != "."
}
# (last major version that it holds for, resource manager, operation)
_EARLIER = {
    (13, RM_HEAP2, 0x10): "CLEAN",
    (13, RM_HEAP2, 0x20): "FREEZE_PAGE",
    (13, RM_HEAP2, 0x30): "CLEANUP_INFO",
    (16, RM_HEAP2, 0x10): "PRUNE",
    (16, RM_HEAP2, 0x20): "VACUUM",
    (16, RM_HEAP2, 0x30): "FREEZE_PAGE",
    (14, RM_DBASE, 0x00): "CREATE",
    (14, RM_DBASE, 0x10): "DROP",
}


def operation_name(header: RecordHeader, version: WalVersion) -> str:
    """Return the name of a record's operation; `UNKNOWN (70)` for one without a name."""
    operation = header.operation & 0x70 if header.rmgr == RM_XACT else header.operation
    for last in (13, 14, 16):
        name = _EARLIER.get((last, header.rmgr, operation))
        if name and version.major <= last:
            return name
    return _TABLE.get((header.rmgr, operation), f"UNKNOWN ({header.operation:x})")
