/* Counts what a process does to files, and stops or fails it at one of these operations.
 *
 * faults.py compiles and preloads it, and says through `faults_arm` what happens where. Reading is
 * not counted, nor what happens on the standard streams.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* CALL calls a function before each operation, and in the middle of each write. FAIL_FROM lets all
 * operations fail from one on that need room on the disk. */
enum { OFF, CALL, KILL, TEAR, FAIL, FAIL_FROM, STOP };

static int action = OFF, at, error, count;
static void (*called)(int);
static char names[1 << 16];
static size_t used;

void faults_arm(int what, int where, int number, void (*function)(int)) {
    action = what, at = where, error = number, called = function, count = 0, used = 0;
    names[0] = 0;
}

static void call(void) {
    action = OFF; /* what the function does is not counted */
    called(count);
    action = CALL;
}

int faults_count(void) { return count; }

/* One line for each operation. */
const char *faults_names(void) { return names; }

static void note(const char *name, const char *path) {
    if (used < sizeof names - 600)
        used += snprintf(names + used, 600, "%s %.500s\n", name, path ? path : "");
}

static const char *path_of(int fd) {
    static char path[4096];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    return path;
}

/* Return whether the operation that comes is to fail. */
static int fails(const char *name, const char *path, int removes) {
    if (action == OFF) return 0;
    int number = ++count;
    note(name, path);
    if (action == CALL) call();
    if (action == KILL && number == at) kill(getpid(), SIGKILL);
    if (action == STOP && number == at) kill(getpid(), SIGSTOP);
    if ((action == FAIL && number == at) || (action == FAIL_FROM && number >= at && !removes)) {
        errno = error;
        return 1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define ON_PATH(type, name, parameters, arguments, path, removes)                                  \
    type name parameters {                                                                         \
        static __typeof__(&name) real;                                                             \
        if (!real) real = REAL(name);                                                              \
        if (fails(#name, path, removes)) return -1;                                                \
        return real arguments;                                                                     \
    }

ON_PATH(int, mkdir, (const char *p, mode_t m), (p, m), p, 0)
ON_PATH(int, mkdirat, (int d, const char *p, mode_t m), (d, p, m), p, 0)
ON_PATH(int, rename, (const char *a, const char *b), (a, b), b, 0)
ON_PATH(int, renameat, (int c, const char *a, int d, const char *b), (c, a, d, b), b, 0)
ON_PATH(int, link, (const char *a, const char *b), (a, b), b, 0)
ON_PATH(int, linkat, (int c, const char *a, int d, const char *b, int f), (c, a, d, b, f), b, 0)
ON_PATH(int, symlink, (const char *a, const char *b), (a, b), b, 0)
ON_PATH(int, symlinkat, (const char *a, int d, const char *b), (a, d, b), b, 0)
ON_PATH(int, unlink, (const char *p), (p), p, 1)
ON_PATH(int, unlinkat, (int d, const char *p, int f), (d, p, f), p, 1)
ON_PATH(int, rmdir, (const char *p), (p), p, 1)
ON_PATH(int, truncate, (const char *p, off_t n), (p, n), p, 0)
ON_PATH(int, ftruncate, (int fd, off_t n), (fd, n), path_of(fd), 0)
ON_PATH(int, ftruncate64, (int fd, off64_t n), (fd, n), path_of(fd), 0)
ON_PATH(int, chmod, (const char *p, mode_t m), (p, m), p, 0)
ON_PATH(int, fchmodat, (int d, const char *p, mode_t m, int f), (d, p, m, f), p, 0)
ON_PATH(int, fsync, (int fd), (fd), path_of(fd), 0)
ON_PATH(int, fdatasync, (int fd), (fd), path_of(fd), 0)

#define ON_OPEN(name, parameters, call, path)                                                      \
    int name parameters {                                                                          \
        static int (*real)();                                                                      \
        if (!real) real = (int (*)())REAL(name);                                                   \
        mode_t mode = 0;                                                                           \
        if (flags & O_CREAT) {                                                                     \
            va_list rest;                                                                          \
            va_start(rest, flags);                                                                 \
            mode = va_arg(rest, mode_t);                                                           \
            va_end(rest);                                                                          \
        }                                                                                          \
        if ((flags & (O_CREAT | O_TRUNC)) && fails("open", path, 0)) return -1;                    \
        return real call;                                                                          \
    }

ON_OPEN(open, (const char *p, int flags, ...), (p, flags, mode), p)
ON_OPEN(open64, (const char *p, int flags, ...), (p, flags, mode), p)
ON_OPEN(openat, (int d, const char *p, int flags, ...), (d, p, flags, mode), p)
ON_OPEN(openat64, (int d, const char *p, int flags, ...), (d, p, flags, mode), p)

/* A write that is torn writes half of what it should before the process dies. */
#define ON_WRITE(name, parameters, whole, half, rest, size)                                        \
    ssize_t name parameters {                                                                      \
        static __typeof__(&name) real;                                                             \
        if (!real) real = REAL(name);                                                              \
        if (fd <= 2 || action == OFF) return real whole;                                           \
        int torn = action == TEAR && count + 1 == at;                                              \
        if (fails("write", path_of(fd), 0)) return -1;                                             \
        if (!torn && action != CALL) return real whole;                                            \
        real half;                                                                                 \
        if (torn) kill(getpid(), SIGKILL);                                                         \
        call();                                                                                    \
        real rest;                                                                                 \
        return size;                                                                               \
    }

ON_WRITE(write, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, n / 2),
         (fd, b + n / 2, n - n / 2), n)
ON_WRITE(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, n / 2, o),
         (fd, b + n / 2, n - n / 2, o + n / 2), n)
ON_WRITE(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, n / 2, o),
         (fd, b + n / 2, n - n / 2, o + n / 2), n)
