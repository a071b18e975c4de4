/* Keeps a log of what a process changes in one directory, so that a test can take back what was not synced.
 *
 * Loaded by LD_PRELOAD. TANIST_POWER_ROOT is the directory, itself included; TANIST_POWER_LOG, one outside of it on the same
 * file system, gets `log` and hard links (by inode) to files that lost a name. TANIST_POWER_LIES is the end of a file's
 * name, or empty for all: a sync of such files does nothing and says that it did. While the file `stuck` beside the log
 * holds the end of a file's name, a sync of such files doesn't come back; while `slow` does, it takes 400 ms
 * longer; while `fails` does, it fails, and what was unsynced by then stays in memory alone, whatever later syncs say.
 *
 * One lock is held from the record of a change to its end, so the log has the changes in their order, and a record
 * precedes its change: of a process that was killed the log knows all that it did, and perhaps one thing more. A sync
 * covers what was logged before it began. All real work is done by plain system calls. Files named *-shm are left out:
 * SQLite maps them into memory, and makes them anew. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* One record: this head, then two strings of bytes. power_log.rs reads it. */
struct record {
	uint64_t kind, a, b, c, first_len, second_len;
};

enum { WRITE = 1, CUT, SYNC, CREATE, MKDIR, UNLINK, RMDIR, RENAME, LINK, FAIL };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *logdir, *lies;
static char root_parent[PATH_MAX];
static size_t root_len;
static int log_fd = -1;
static uint64_t log_end;

/* What this library can't follow must not pass as a good run. */
static void give_up(const char *what) {
	fprintf(stderr, "power.c panicked at %s: %s\n", what, strerror(errno));
	abort();
}

static void init(void) {
	char path[PATH_MAX];
	struct stat at;
	root = getenv("TANIST_POWER_ROOT");
	logdir = getenv("TANIST_POWER_LOG");
	lies = getenv("TANIST_POWER_LIES");
	if (!root || !logdir) {
		root = NULL;
		return;
	}
	root_len = strlen(root);
	snprintf(root_parent, sizeof root_parent, "%s", root);
	*strrchr(root_parent, '/') = 0;
	snprintf(path, sizeof path, "%s/log", logdir);
	log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (log_fd < 0 || fstat(log_fd, &at) < 0)
		give_up("open the log");
	log_end = at.st_size;
}

static int ends_with(const char *path, const char *end) {
	size_t len = strlen(path), end_len = strlen(end);
	return len >= end_len && strcmp(path + len - end_len, end) == 0;
}

static int in_root(const char *path) {
	if (strncmp(path, root, root_len) != 0 || (path[root_len] != '/' && path[root_len] != 0))
		return 0;
	return !ends_with(path, "-shm");
}

/* The absolute path, if it is one to watch. */
static int watched(int dir, const char *name, char *path) {
	char base[PATH_MAX];
	pthread_once(&once, init);
	if (!root)
		return 0;
	if (name[0] == '/') {
		snprintf(path, PATH_MAX, "%s", name);
		return in_root(path);
	}
	if (dir == AT_FDCWD) {
		if (!getcwd(base, sizeof base))
			return 0;
	} else {
		char link[64];
		snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
		ssize_t n = readlink(link, base, sizeof base - 1);
		if (n < 0)
			return 0;
		base[n] = 0;
	}
	if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX)
		return 0;
	return in_root(path);
}

/* Whether the descriptor is a file or directory to watch, and its path. */
static int watched_path(int fd, struct stat *at, char *path) {
	char link[64];
	int kept = errno;
	pthread_once(&once, init);
	if (!root || fstat(fd, at) < 0 || !(S_ISREG(at->st_mode) || S_ISDIR(at->st_mode))) {
		errno = kept;
		return 0;
	}
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, PATH_MAX - 1);
	errno = kept;
	if (n < 0)
		return 0;
	path[n] = 0;
	return strcmp(path, root_parent) == 0 || in_root(path);
}

static int watched_fd(int fd, struct stat *at) {
	char path[PATH_MAX];
	return watched_path(fd, at, path);
}

static void append(struct record head, const void *first, const struct iovec *second, int count) {
	struct iovec parts[2 + 64];
	uint64_t total = sizeof head + head.first_len;
	if (count > 64) {
		errno = EINVAL;
		give_up("a write in more than 64 parts");
	}
	parts[0] = (struct iovec){&head, sizeof head};
	parts[1] = (struct iovec){(void *)first, head.first_len};
	for (int i = 0; i < count; i++) {
		parts[2 + i] = second[i];
		head.second_len += second[i].iov_len;
		total += second[i].iov_len;
	}
	if ((uint64_t)syscall(SYS_writev, log_fd, parts, 2 + count) != total)
		give_up("write the log");
	log_end += total;
}

static void note(int kind, uint64_t a, uint64_t b, uint64_t c, const char *one, const char *two) {
	struct iovec second = {(void *)two, two ? strlen(two) : 0};
	struct record head = {kind, a, b, c, one ? strlen(one) : 0, 0};
	append(head, one, &second, two ? 1 : 0);
}

static uint64_t inode_of(const char *path) {
	struct stat at;
	return lstat(path, &at) < 0 ? 0 : at.st_ino;
}

static uint64_t parent_of(const char *path) {
	char parent[PATH_MAX];
	snprintf(parent, sizeof parent, "%s", path);
	*strrchr(parent, '/') = 0;
	return inode_of(parent);
}

/* Another name for a file that is about to lose its own. */
static void keep(const char *path) {
	char grave[PATH_MAX];
	struct stat at;
	if (lstat(path, &at) < 0 || !S_ISREG(at.st_mode))
		return;
	snprintf(grave, sizeof grave, "%s/%llu", logdir, (unsigned long long)at.st_ino);
	if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, grave, 0) < 0 && errno != EEXIST)
		give_up("keep an unlinked file");
}

/* The file's bytes from `at` on, `want` of them at most; its descriptor may be write-only. */
static char *old_bytes(int fd, uint64_t at, uint64_t want, uint64_t size, uint64_t *len) {
	char link[64];
	*len = at < size ? (size - at < want ? size - at : want) : 0;
	char *old = malloc(*len + 1);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	int again = *len ? syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC) : -1;
	for (uint64_t done = 0; done < *len;) {
		ssize_t n = syscall(SYS_pread64, again, old + done, *len - done, at + done);
		if (n <= 0)
			give_up("read what is overwritten");
		done += n;
	}
	if (again >= 0)
		syscall(SYS_close, again);
	return old;
}

static void before_write(int fd, const struct iovec *parts, int count, int64_t at, uint64_t inode) {
	struct stat now;
	uint64_t want = 0, len;
	if (fstat(fd, &now) < 0)
		give_up("look at a file");
	if (at < 0)
		at = fcntl(fd, F_GETFL) & O_APPEND ? now.st_size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
	for (int i = 0; i < count; i++)
		want += parts[i].iov_len;
	char *old = old_bytes(fd, at, want, now.st_size, &len);
	append((struct record){WRITE, inode, at, now.st_size, len, 0}, old, parts, count);
	free(old);
}

static void before_cut(int fd, uint64_t to) {
	struct stat now;
	uint64_t len;
	if (fstat(fd, &now) < 0)
		give_up("look at a file");
	char *old = old_bytes(fd, to, UINT64_MAX, now.st_size, &len);
	append((struct record){CUT, now.st_ino, to, now.st_size, len, 0}, old, NULL, 0);
	free(old);
}

#define WATCHING(condition, before, call)                                                                              \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			return call;                                                                                   \
		pthread_mutex_lock(&lock);                                                                             \
		before;                                                                                                \
		__typeof__(call) result = call;                                                                        \
		int kept = errno;                                                                                      \
		pthread_mutex_unlock(&lock);                                                                           \
		errno = kept;                                                                                          \
		return result;                                                                                         \
	} while (0)

#define WRITING(parts, count, at, call)                                                                                \
	struct stat file;                                                                                              \
	WATCHING(watched_fd(fd, &file), before_write(fd, parts, count, at, file.st_ino), call)

ssize_t write(int fd, const void *data, size_t len) {
	struct iovec part = {(void *)data, len};
	WRITING(&part, 1, -1, syscall(SYS_write, fd, data, len));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
	WRITING(parts, count, -1, syscall(SYS_writev, fd, parts, count));
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
	struct iovec part = {(void *)data, len};
	WRITING(&part, 1, at, syscall(SYS_pwrite64, fd, data, len, at));
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
	WRITING(parts, count, at, syscall(SYS_pwritev, fd, parts, count, at, 0));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

int ftruncate64(int fd, off64_t to) {
	struct stat file;
	WATCHING(watched_fd(fd, &file), before_cut(fd, to), (int)syscall(SYS_ftruncate, fd, to));
}

int ftruncate(int fd, off_t to) { return ftruncate64(fd, to); }

/* Nobody needs these to be followed: refused, so that who tries them falls back to writes. */
int fallocate(int fd, int mode, off_t at, off_t len) {
	struct stat file;
	if (!watched_fd(fd, &file))
		return syscall(SYS_fallocate, fd, mode, at, len);
	errno = EOPNOTSUPP;
	return -1;
}

int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t len, unsigned flags) {
	struct stat file;
	if (!watched_fd(to, &file))
		return syscall(SYS_copy_file_range, from, from_at, to, to_at, len, flags);
	errno = EINVAL;
	return -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t len) {
	struct stat file;
	if (!watched_fd(to, &file))
		return syscall(SYS_sendfile, to, from, at, len);
	errno = EINVAL;
	return -1;
}

/* Whether this file in the log's directory names the end of `path`. */
static int asked_for(const char *ask, const char *path) {
	char name[PATH_MAX], end[256];
	snprintf(name, sizeof name, "%s/%s", logdir, ask);
	int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = syscall(SYS_read, fd, end, sizeof end - 1);
	syscall(SYS_close, fd);
	end[n > 0 ? n : 0] = 0;
	return n > 0 && ends_with(path, end);
}

static int sync_fd(int fd, long call) {
	struct stat file;
	char path[PATH_MAX];
	if (!watched_path(fd, &file, path))
		return syscall(call, fd);
	if (lies && ends_with(path, lies))
		return 0;
	while (asked_for("stuck", path))
		usleep(5000);
	if (asked_for("slow", path))
		usleep(400000);
	pthread_mutex_lock(&lock);
	uint64_t until = log_end;
	if (asked_for("fails", path)) {
		note(FAIL, file.st_ino, until, 0, NULL, NULL);
		pthread_mutex_unlock(&lock);
		errno = EIO;
		return -1;
	}
	pthread_mutex_unlock(&lock);
	int result = syscall(call, fd);
	if (result == 0) {
		pthread_mutex_lock(&lock);
		note(SYNC, file.st_ino, until, 0, NULL, NULL);
		pthread_mutex_unlock(&lock);
	}
	return result;
}

int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

static int open_at(int dir, const char *name, int flags, mode_t mode) {
	char path[PATH_MAX];
	if (!(flags & (O_CREAT | O_TRUNC)) || !watched(dir, name, path))
		return syscall(SYS_openat, dir, name, flags, mode);
	pthread_mutex_lock(&lock);
	struct stat at;
	int exists = stat(path, &at) == 0;
	if (!exists && (flags & O_CREAT))
		note(CREATE, parent_of(path), 0, 0, path, NULL);
	if (exists && (flags & O_TRUNC) && !(flags & O_EXCL) && S_ISREG(at.st_mode) && at.st_size > 0) {
		int whole = syscall(SYS_openat, dir, name, O_RDONLY | O_CLOEXEC);
		if (whole < 0)
			give_up("read what is truncated");
		before_cut(whole, 0);
		syscall(SYS_close, whole);
	}
	int result = syscall(SYS_openat, dir, name, flags, mode);
	int kept = errno;
	pthread_mutex_unlock(&lock);
	errno = kept;
	return result;
}

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(dir)                                                                                                      \
	va_list more;                                                                                                  \
	va_start(more, flags);                                                                                         \
	mode_t mode = mode_of(flags, more);                                                                            \
	va_end(more);                                                                                                  \
	return open_at(dir, name, flags, mode)

int open(const char *name, int flags, ...) { OPEN(AT_FDCWD); }
int open64(const char *name, int flags, ...) { OPEN(AT_FDCWD); }
int openat(int dir, const char *name, int flags, ...) { OPEN(dir); }
int openat64(int dir, const char *name, int flags, ...) { OPEN(dir); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

int mkdirat(int dir, const char *name, mode_t mode) {
	char path[PATH_MAX];
	WATCHING(watched(dir, name, path) && !inode_of(path), note(MKDIR, parent_of(path), 0, 0, path, NULL),
		 (int)syscall(SYS_mkdirat, dir, name, mode));
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static void before_unlink(const char *path, int kind) {
	keep(path);
	note(kind, parent_of(path), inode_of(path), 0, path, NULL);
}

int unlinkat(int dir, const char *name, int flags) {
	char path[PATH_MAX];
	WATCHING(watched(dir, name, path) && inode_of(path),
		 before_unlink(path, flags & AT_REMOVEDIR ? RMDIR : UNLINK),
		 (int)syscall(SYS_unlinkat, dir, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

static void before_rename(const char *from, const char *to) {
	keep(to);
	note(RENAME, parent_of(to), inode_of(to), parent_of(from), from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
	char old[PATH_MAX], new[PATH_MAX];
	int out = watched(from_dir, from, old), in = watched(to_dir, to, new);
	if (in != out || ((in || out) && (flags & ~RENAME_NOREPLACE))) {
		errno = EXDEV;
		give_up("a rename that is not followed");
	}
	WATCHING(in && inode_of(old), before_rename(old, new),
		 (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags));
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
	return renameat2(from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
	char path[PATH_MAX];
	WATCHING(watched(to_dir, to, path) && !inode_of(path), note(LINK, parent_of(path), 0, 0, path, NULL),
		 (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
