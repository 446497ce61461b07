/* Makes the disk and the wall clock of one process misbehave, on command.

   Loaded with LD_PRELOAD. What to do is read from a small file that the tests map and
   change while the process runs (its shape: preload.py). The file is
   $FAULTS_FOLDER/<name of the folder in which the process starts>.faults; a process that
   finds none behaves as ever. Only the system calls are replaced through which Python and
   LMDB write, sync and read the wall clock. CLOCK_MONOTONIC is never touched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int32_t sync_errno;      /* fsync and fdatasync fail with it; 0: they work */
    int32_t write_errno;     /* the same for writing to files */
    int32_t sync_delay_ms;   /* each sync takes so much longer */
    int32_t hits;            /* calls that were made to fail or wait */
    int64_t clock_offset_ms; /* added to CLOCK_REALTIME */
    int32_t sync_lies;       /* not 0: a sync says that it is done and does nothing */
    char path[228];          /* only files whose path contains it; "": all */
};

static volatile struct control *control;

__attribute__((constructor)) static void find_control(void) {
    char here[PATH_MAX], file[PATH_MAX];
    const char *folder = getenv("FAULTS_FOLDER");
    if (folder == NULL || getcwd(here, sizeof here) == NULL)
        return;
    const char *name = strrchr(here, '/') + 1;
    if (snprintf(file, sizeof file, "%s/%s.faults", folder, name) >= (int)sizeof file)
        return;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED)
        control = found;
}

#define REAL(name, ...)                                                                     \
    static __typeof__(name) *real;                                                          \
    if (real == NULL)                                                                       \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                 \
    return real(__VA_ARGS__)

static int concerned(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0 || path[0] != '/') /* a socket or a pipe */
        return 0;
    path[size] = 0;
    return strstr(path, (const char *)control->path) != NULL;
}

/* 0, or the error with which a sync of this file fails. */
static int on_sync(int fd) {
    if (control == NULL || (control->sync_errno == 0 && control->sync_delay_ms == 0))
        return 0;
    if (!concerned(fd))
        return 0;
    __sync_fetch_and_add((int32_t *)&control->hits, 1);
    int32_t delay_ms = control->sync_delay_ms;
    if (delay_ms > 0) {
        struct timespec pause = {delay_ms / 1000, (delay_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
    return control->sync_errno;
}

static int on_write(int fd) {
    if (control == NULL || control->write_errno == 0 || !concerned(fd))
        return 0;
    __sync_fetch_and_add((int32_t *)&control->hits, 1);
    return control->write_errno;
}

#define FAIL_IF(reason)                                                                     \
    do {                                                                                    \
        int number = (reason);                                                              \
        if (number != 0) {                                                                  \
            errno = number;                                                                 \
            return -1;                                                                      \
        }                                                                                   \
    } while (0)

static int lies(int fd) {
    if (control == NULL || control->sync_lies == 0 || !concerned(fd))
        return 0;
    __sync_fetch_and_add((int32_t *)&control->hits, 1);
    return 1;
}

int fsync(int fd) {
    FAIL_IF(on_sync(fd));
    if (lies(fd))
        return 0;
    REAL(fsync, fd);
}

int fdatasync(int fd) {
    FAIL_IF(on_sync(fd));
    if (lies(fd))
        return 0;
    REAL(fdatasync, fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    FAIL_IF(on_write(fd));
    REAL(write, fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    FAIL_IF(on_write(fd));
    REAL(pwrite, fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    FAIL_IF(on_write(fd));
    REAL(pwrite64, fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAIL_IF(on_write(fd));
    REAL(writev, fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    FAIL_IF(on_write(fd));
    REAL(pwritev64, fd, parts, count, at);
}

/* This one answers the error, and a state that is written through a map asks for room by it. */
int posix_fallocate(int fd, off_t at, off_t size) {
    int number = on_write(fd);
    if (number != 0)
        return number;
    REAL(posix_fallocate, fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int number = on_write(fd);
    if (number != 0)
        return number;
    REAL(posix_fallocate64, fd, at, size);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    FAIL_IF(on_write(fd));
    REAL(pwritev64v2, fd, parts, count, at, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (result == 0 && wall && control != NULL) {
        int64_t offset_ms = control->clock_offset_ms;
        int64_t nanoseconds = now->tv_nsec + (offset_ms % 1000) * 1000000;
        now->tv_sec += offset_ms / 1000;
        if (nanoseconds < 0 || nanoseconds >= 1000000000) {
            now->tv_sec += nanoseconds < 0 ? -1 : 1;
            nanoseconds += nanoseconds < 0 ? 1000000000 : -1000000000;
        }
        now->tv_nsec = nanoseconds;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec wall;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &wall) != 0)
        return -1;
    now->tv_sec = wall.tv_sec;
    now->tv_usec = wall.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec wall;
    if (clock_gettime(CLOCK_REALTIME, &wall) != 0)
        return -1;
    if (out != NULL)
        *out = wall.tv_sec;
    return wall.tv_sec;
}
