/* Makes calls on files hang, so that a test sees what a process does whose disk doesn't answer.
 *
 * Loaded by LD_PRELOAD. TANIST_HANG is a file, away from the data: while it is there it says in one line which calls hang, and
 * for how long each: `sync -wal 0`. First `write`, `sync`, `open` (to write), `rename` (and unlink) or `all`; then the end of
 * the files' paths, or `*`; then milliseconds, or 0: as long as the file says so. Only what lies in TANIST_HANG_ROOT is
 * touched. A call that has hung is then done as it was asked. `http * 0` hangs the thread that waits for clients. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, SYNC, OPEN, RENAME, HTTP };
static const char *const names[] = {"write", "sync", "open", "rename", "http"};

/* How many milliseconds the call is to take: -1 for none, 0 for ever. */
static long asked(int kind, const char *path) {
	const char *control = getenv("TANIST_HANG"), *root = getenv("TANIST_HANG_ROOT");
	char line[256], what[16], end[128];
	long ms;
	if (!control || !root || strncmp(path, root, strlen(root)) != 0)
		return -1;
	int fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = syscall(SYS_read, fd, line, sizeof line - 1);
	syscall(SYS_close, fd);
	line[n > 0 ? n : 0] = 0;
	if (sscanf(line, "%15s %127s %ld", what, end, &ms) != 3)
		return -1;
	if ((kind == HTTP || strcmp(what, "all") != 0) && strcmp(what, names[kind]) != 0)
		return -1;
	size_t len = strlen(path), end_len = strlen(end);
	int named = strcmp(end, "*") == 0 || (len >= end_len && strcmp(path + len - end_len, end) == 0);
	return named ? ms : -1;
}

static void hang(int kind, const char *path) {
	int kept = errno;
	long ms = asked(kind, path);
	for (long passed = 0; ms == 0 || passed < ms; passed += 5) {
		usleep(5000);
		if (asked(kind, path) < 0)
			break;
	}
	errno = kept;
}

static void hang_fd(int kind, int fd) {
	char link[64], path[PATH_MAX];
	int kept = errno;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	errno = kept;
	if (n <= 0 || path[0] != '/')
		return;
	path[n] = 0;
	hang(kind, path);
}

static void hang_at(int kind, int dir, const char *name) {
	char path[PATH_MAX], base[PATH_MAX];
	if (name[0] == '/')
		return hang(kind, name);
	if (dir != AT_FDCWD || !getcwd(base, sizeof base))
		return;
	if (snprintf(path, sizeof path, "%s/%s", base, name) < (int)sizeof path)
		hang(kind, path);
}

#define FIRST(kind, fd, call)                                                                                          \
	hang_fd(kind, fd);                                                                                             \
	return call

ssize_t write(int fd, const void *data, size_t len) { FIRST(WRITE, fd, syscall(SYS_write, fd, data, len)); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
	FIRST(WRITE, fd, syscall(SYS_writev, fd, parts, count));
}
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
	FIRST(WRITE, fd, syscall(SYS_pwrite64, fd, data, len, at));
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
	FIRST(WRITE, fd, syscall(SYS_pwritev, fd, parts, count, at, 0));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }
int ftruncate64(int fd, off64_t to) { FIRST(WRITE, fd, syscall(SYS_ftruncate, fd, to)); }
int ftruncate(int fd, off_t to) { return ftruncate64(fd, to); }
int fsync(int fd) { FIRST(SYNC, fd, syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { FIRST(SYNC, fd, syscall(SYS_fdatasync, fd)); }

/* The runtime that serves clients names its threads so; the replication thread has another name. */
int epoll_wait(int fd, struct epoll_event *events, int count, int ms) {
	char name[16] = "";
	int result = syscall(SYS_epoll_pwait, fd, events, count, ms, NULL, 8);
	int kept = errno;
	const char *root = getenv("TANIST_HANG_ROOT");
	if (root && prctl(PR_GET_NAME, name) == 0 && strncmp(name, "tokio-", 6) == 0)
		hang(HTTP, root);
	errno = kept;
	return result;
}

static int open_at(int dir, const char *name, int flags, mode_t mode) {
	if (flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))
		hang_at(OPEN, dir, name);
	return syscall(SYS_openat, dir, name, flags, mode);
}

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPENING(dir)                                                                                                   \
	va_list more;                                                                                                  \
	va_start(more, flags);                                                                                         \
	mode_t mode = mode_of(flags, more);                                                                            \
	va_end(more);                                                                                                  \
	return open_at(dir, name, flags, mode)

int open(const char *name, int flags, ...) { OPENING(AT_FDCWD); }
int open64(const char *name, int flags, ...) { OPENING(AT_FDCWD); }
int openat(int dir, const char *name, int flags, ...) { OPENING(dir); }
int openat64(int dir, const char *name, int flags, ...) { OPENING(dir); }

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
	hang_at(RENAME, to_dir, to);
	return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
	return renameat2(from_dir, from, to_dir, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlinkat(int dir, const char *name, int flags) {
	hang_at(RENAME, dir, name);
	return syscall(SYS_unlinkat, dir, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
