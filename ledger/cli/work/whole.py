"""A file that has its name when all of it is on the disk, or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["whole_file"]


@contextmanager
def whole_file(out: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which only its owner may read; a device or a pipe is written to, never replaced.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    if out.exists() and not stat.S_ISREG(out.stat().st_mode):
        with out.open("wb") as device:
            yield device
        return
    target = out.resolve()
    # Without the name in it: that may be as long as a name can be.
    descriptor, unfinished = tempfile.mkstemp(prefix=".unfinished.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(target)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
