"""All writes of the program: temporary name, fsync, rename; manifests; locks; the clock.

A file or folder with its final name is complete. Functions that write raise StorageError if the
disk is full, read-only or failing, and leave the old content intact. Only the log of a run is
written in another way, since a run must not end because lines of its log are lost.
"""

# ruff: noqa: F401 - the program calls these as `storage.NAME`
from orca_cli.storage.disk import (
    append_json_line,
    check_pinned,
    check_temporary,
    check_writable,
    disk_error,
    guarded,
    make_folder,
    now,
    pinned,
    read_arrays,
    read_checked_json,
    read_json_lines,
    read_tensors,
    require_space,
    sha256_file,
    timestamp,
    write_bytes,
    write_checked_json,
    write_json,
    write_text,
    write_with,
)
from orca_cli.storage.folders import (
    MANIFEST,
    cached,
    clean_temporary,
    commit_folder,
    folder_problems,
    is_aside,
    is_temporary,
    quarantine,
    remove,
    seal,
    size,
    verify_folder,
)
from orca_cli.storage.locks import (
    HEARTBEAT_S,
    age_s,
    clock,
    heartbeat,
    is_locked,
    lock,
)
