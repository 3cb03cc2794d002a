"""Files that are written whole or not at all, and what the file system reports as one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wxkernels.errors import UserError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end; after an error nothing of it is left.

    UserError: it cannot be written.
    """
    path = Path(path)
    require_writable(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with named_errors("write", path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def require_writable(path: str | Path) -> None:
    """UserError: no file can be written there; to be asked before long work."""
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: no folder {path.parent}; make it or choose another path")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: {path.parent} may not be written to; choose another path")


@contextmanager
def named_errors(action: str, path: str | Path) -> Iterator[None]:
    """Turn what the file system reports into one line: disk full, no permission, a broken store."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        # HDF5 puts its own internals into strerror
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        fix = {
            errno.ENOSPC: "free space there or choose another path",
            errno.EDQUOT: "free space there or choose another path",
            errno.EACCES: f"choose a path that you may {action}",
            errno.EROFS: f"choose a path that you may {action}",
        }.get(error.errno or 0, "check the path")
        raise UserError(f"cannot {action} {path}: {reason}; {fix}") from error
