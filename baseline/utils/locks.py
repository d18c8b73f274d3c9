"""Locks of files and folders, which keep other processes away."""

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path


def lock(descriptor: int, wait: bool, how: Callable = fcntl.flock) -> bool:
    """Keep other processes from locking a file, opened for writing, until it is closed.

    Raises BlockingIOError where another one holds the lock and ``wait`` is False.  Where the
    file system knows no locks that is said, once, and False returned.
    """
    try:
        how(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        # Of flock "permission denied" is no lock that another process holds.
        if error.errno == errno.EAGAIN or how is fcntl.lockf and error.errno == errno.EACCES:
            raise BlockingIOError(error.errno, error.strerror) from error
        _no_locks(error.strerror)
        return False
    return True


@cache
def _no_locks(says: str) -> None:
    print(f"warning: files cannot be locked here ({says}); let no other process write them",
          file=sys.stderr)


def lock_folder(folder: Path, wait: bool) -> int:
    """Return a descriptor that keeps other processes from locking a folder until it is closed.

    Raises BlockingIOError where another one holds the lock and ``wait`` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # no locks of folders, as on NFS
            os.close(descriptor)
            descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            lock(descriptor, wait)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor
