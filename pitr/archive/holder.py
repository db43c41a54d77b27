"""Who holds a lease: the identity of a process, and whether such a process is still alive."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Holder:
    """One run of the program on one machine.

    `process_start` is in clock ticks since boot. It, `boot_id` and `pid_namespace` are None on
    systems without /proc.
    """

    host: str
    pid: int
    process_start: int | None
    boot_id: str | None
    pid_namespace: str | None
    nonce: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def this_process() -> Holder:
    """Return the identity of this process, with a fresh nonce."""
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        process_start=_running_since(os.getpid()),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        nonce=secrets.token_hex(16),
    )


def is_alive(holder: Holder) -> bool | None:
    """Return whether the holder's process runs, or None when that cannot be seen from here.

    It can be seen only on the same boot of the same kernel, in the same process-id namespace: two
    containers of one machine share the kernel and often the host name, but number their processes
    anew, and each would take the other's for dead.
    """
    here = (_boot_id(), _pid_namespace())
    if None in here or here != (holder.boot_id, holder.pid_namespace):
        return None
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _running_since(holder.pid)
    # Unknown where /proc hides the processes of other users: then the number has to do.
    return started is None or started == holder.process_start


def _running_since(pid: int) -> int | None:
    """Return the process's start in clock ticks since boot, -1 for one that has ended.

    proc_pid_stat(5): the command's name is in parentheses and may contain some; the state is the
    first field after it, the start the twentieth. A process that was killed stays in the table
    until its parent asks for its exit code.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str | None:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return None
