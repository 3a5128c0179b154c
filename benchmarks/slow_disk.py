"""Slower disks on demand: a shim, compiled here, that adds a delay to every fsync of a process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["NoCompiler", "shim"]

SOURCE: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

static void delay(void) {
    static __thread int precise = 0;
    const char *us = getenv("FSYNC_DELAY_US");
    struct timespec wait = {0, us ? atol(us) * 1000 : 0};
    if (!precise) { prctl(PR_SET_TIMERSLACK, 1); precise = 1; }
    if (wait.tv_nsec) nanosleep(&wait, 0);
}
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    delay();
    return result;
}
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    delay();
    return result;
}
"""


class NoCompiler(Exception):
    """The shim cannot be made here; the message names what is missing."""


def shim(folder: Path) -> Path:
    """Compile the shim; preloaded, it reads the delay from FSYNC_DELAY_US, less than a million.

    Raises:
        NoCompiler: no C compiler is on PATH, or it refuses.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) on PATH")
    source, library = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(SOURCE)
    done = subprocess.run(  # noqa: S603 - the compiler, on our own source
        [compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoCompiler(f"{compiler} cannot make the shim: {done.stderr.strip().splitlines()[-1]}")
    return library
