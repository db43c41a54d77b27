"""Base backups wherever they lie, in an archive or as `pg_basebackup` wrote them.

Import order inside the package:
    control, page_checksum, server_manifest, tar, contents → object → archive
    tar, contents → tar_files → folder
    contents → export, leading
"""
