"""Locks of files and folders, which keep other processes away."""

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path


def lock(descriptor: int, wait: bool, how: Callable | None = None, warn: bool = True) -> bool:
    """Keep other processes from locking a file until it is closed, and return True.

    descriptor: of a file opened for writing; how: fcntl.flock where None.  Returns False, after
    one warning, where the file system has no locks.  Raises BlockingIOError where another process
    holds the lock and ``wait`` is False.
    """
    how = how or fcntl.flock
    try:
        how(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        # By EACCES lockf alone says that another process holds the lock.
        if error.errno == errno.EAGAIN or how is fcntl.lockf and error.errno == errno.EACCES:
            raise BlockingIOError(error.errno, error.strerror) from error
        if warn:
            _warn(error.strerror)
        return False
    return True


@cache
def _warn(reason: str) -> None:
    print(f"warning: files cannot be locked here ({reason}); let no other process write them",
          file=sys.stderr)


def lock_folder(folder: Path, wait: bool) -> int:
    """Return a descriptor that locks a folder until it is closed; see ``lock``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor, wait, warn=False):  # NFS locks what is open for writing alone
            os.close(descriptor)
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            lock(descriptor, wait)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor
