"""Clocks of the time of day that a campaign sets, for processes that know nothing of it."""

import subprocess
from pathlib import Path

# Everything that tells the time of day in a Python process, and in the libraries that it calls, ends here.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long long *off_s;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *off_s, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) off_s = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int failed = real(clock, now);
    if (!failed && off_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *off_s;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


class MachineClock:
    """The time of day as some processes see it, which may jump while they run; their monotonic clock goes on.

    Parameters
    ----------
    directory : Path
        For its two files.
    name : str
        Of the first of them; clocks of different names are set one by one.

    Attributes
    ----------
    environment : dict
        What processes have to be started with.
    """

    def __init__(self, directory: Path, name: str) -> None:
        library = directory / "clock.so"
        if not library.exists():
            command = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
            subprocess.run(command, input=_SOURCE, text=True, check=True, capture_output=True)
        self._file = directory / name
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def set_off(self, off_s: int) -> None:
        """Set it so many seconds ahead of this process's."""
        with self._file.open("r+b") as file:
            file.write(off_s.to_bytes(8, "little", signed=True))
