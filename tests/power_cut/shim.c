/* Preloaded into a program: logs in one order what it does to the files of one folder, and fails a call when told to.

   A record is: kind, descriptor, offset (of an open: its flags; of a truncate: the size), length, then that many bytes:
   a path, the data of a write, or two paths of a rename with a zero byte between them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define TAKE pthread_mutex_lock(&turn)
#define GIVE(result) do { int kept = errno; pthread_mutex_unlock(&turn); errno = kept; return result; } while (0)
#define OURS(fd) ((fd) >= 0 && (fd) < FILES && ours[fd])

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char ours[FILES];
static int logged_to = -1;
static struct { int kind, error, half, lasting; long at, calls; } fault;

static int below(const char *path) {
    const char *folder = getenv("SHIM_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void tell(char kind, int fd, int64_t offset, const void *data, uint32_t length) {
    struct __attribute__((packed)) { char kind; int32_t fd; int64_t offset; uint32_t length; } head = {kind, fd, offset, length};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)data, length}};
    if (logged_to < 0 && getenv("SHIM_LOG"))
        logged_to = REAL(open)(getenv("SHIM_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (logged_to >= 0 && writev(logged_to, parts, 2) != (ssize_t)(sizeof head + length)) abort();
}

/* Fail the at-th call of a kind ('w' write or truncate, 's' sync of a file) from now on, and all later ones if it lasts;
   with half, that call writes half of its bytes and the next one fails. */
void shim_fail(int kind, long at, int error, int half, int lasting) {
    TAKE; fault.kind = kind, fault.error = error, fault.half = half, fault.lasting = lasting, fault.at = at, fault.calls = 0;
    pthread_mutex_unlock(&turn);
}
long shim_calls(void) { return fault.calls; }

static int fails(int kind) {
    if (kind != fault.kind) return 0;
    fault.calls++;
    if (!fault.at || fault.calls < fault.at || (fault.calls > fault.at && !fault.lasting)) return 0;
    errno = fault.error;
    return 1;
}

static int opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= FILES) return fd;
    ours[fd] = below(path);
    if (ours[fd]) tell('o', fd, flags, path, strlen(path));
    return fd;
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        TAKE; int fd = opened(REAL(name)(path, flags, mode), path, flags); GIVE(fd); }
OPEN(open)
OPEN(open64)

int close(int fd) {
    TAKE; if (OURS(fd)) ours[fd] = 0;
    int result = REAL(close)(fd); GIVE(result);
}

static ssize_t put(int fd, const void *data, size_t size, off_t at, int placed) {
    if (fails('w')) {
        if (!fault.half) return -1;
        fault.half = 0, fault.at++, size /= 2;
    }
    ssize_t done = placed ? REAL(pwrite)(fd, data, size, at) : REAL(write)(fd, data, size);
    if (done > 0) tell('w', fd, at, data, done);
    return done;
}
ssize_t write(int fd, const void *data, size_t size) {
    if (!OURS(fd)) return REAL(write)(fd, data, size);
    TAKE; ssize_t done = put(fd, data, size, lseek(fd, 0, SEEK_CUR), 0); GIVE(done);
}
#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t size, off_t at) { \
        if (!OURS(fd)) return REAL(name)(fd, data, size, at); \
        TAKE; ssize_t done = put(fd, data, size, at, 1); GIVE(done); }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name) \
    int name(int fd, off_t size) { \
        if (!OURS(fd)) return REAL(name)(fd, size); \
        TAKE; int result = fails('w') ? -1 : REAL(name)(fd, size); \
        if (result == 0) tell('t', fd, size, "", 0); \
        GIVE(result); }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* SQLite does not look at what syncing a folder returned, so only files fail. The model loses what was not synced:
   there is no need to wait for a disk. */
static int sync_fails(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && fails('s');
}
#define SYNC(name) \
    int name(int fd) { \
        if (!OURS(fd)) return REAL(name)(fd); \
        TAKE; int result = sync_fails(fd) ? -1 : 0; \
        tell(result ? 'f' : 's', fd, 0, "", 0); \
        GIVE(result); }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    TAKE; int result = REAL(unlink)(path);
    if (result == 0 && below(path)) tell('u', -1, 0, path, strlen(path));
    GIVE(result);
}

int rename(const char *from, const char *to) {
    char both[8192]; size_t split = strlen(from) + 1, length = split + strlen(to);
    TAKE; int result = REAL(rename)(from, to);
    if (result == 0 && length < sizeof both && (below(from) || below(to)))
        memcpy(both, from, split), memcpy(both + split, to, length - split), tell('r', -1, 0, both, length);
    GIVE(result);
}
