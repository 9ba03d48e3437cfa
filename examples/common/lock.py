"""One process at a time writes into an output folder.

`take(folder)` is all that a script calls (`folders.keep_settings` does). The lock is the operating
system's: it ends with the process, however that ends, and no stale one is left.
"""

import atexit
import errno
import os
import pathlib

from common import script

NAME = ".lock"
# By this process's number and the folder's real path, the file that it holds.
_held = {}


class LockError(script.Stop):
    """Another process writes into the folder; says which."""


def take(folder):
    """Makes a folder and locks it for this process, until it ends.

    Raises:
        LockError: If another process holds it.
        OSError: If it cannot be written into.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / NAME
    key = os.getpid(), path
    if key in _held and _is_file_of(path, _held[key]):
        return
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return  # A file system without locks.
            holder = os.pread(file, 20, 0).decode(errors="replace").strip()
            os.close(file)
            raise LockError(
                f"{folder} is in use by process {holder or '(number not known)'}: wait until "
                "it ends, or choose another --output."
            ) from error
        # The one who had it may have removed it between the two calls.
        if _is_file_of(path, file):
            break
        os.close(file)
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    _held[key] = file
    atexit.register(_give_back, path, file, os.getpid())


def release():
    """Gives back all folders that this process holds, before it ends."""
    for (process, path), file in list(_held.items()):
        if process == os.getpid():
            del _held[process, path]
            _give_back(path, file, process)
            os.close(file)


def _is_file_of(path, file):
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


def _give_back(path, file, process):
    # Not a fork's, which shares the lock.
    if os.getpid() == process and _is_file_of(path, file):
        path.unlink(missing_ok=True)


try:
    import fcntl

    def _lock(file):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(file):
        # Beyond the text, which others read.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
