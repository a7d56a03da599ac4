/* The least that starting a container takes: what Neargate does between clone and exec, without Neargate.
 *
 *   floor ROOT SCRATCH
 *
 * For each line on standard input it starts `/bin/busybox true` of the directory ROOT once, in new pid, mount, uts, ipc
 * and cgroup namespaces, with cgroups, limits and a network namespace that were made before, on an overlay with its
 * upper directory on a tmpfs at SCRATCH. It answers with two numbers: milliseconds until the program runs, and until
 * its end was seen. There is no user namespace, no seccomp filter, no log, no API.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* The cgroups of hybrid and v1 hierarchies, or the one of v2. */
static const char *const HIERARCHIES[] = {"/cpu", "/memory", "/pids", ""};
static const char *const LIMITS[][2] = {
    {"cpu.cfs_quota_us", "25000"}, {"memory.limit_in_bytes", "536870912"}, {"pids.max", "1024"}, {"pids.max", "1024"},
};
static char groups[4][128];
static int joins[4], joined;

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int written = write(fd, text, strlen(text)) < 0 ? -1 : 0;
    close(fd);
    return written;
}

/* Makes a group in each hierarchy that is there; of v2 the one at the top only where there is no other. */
static void make_groups(void) {
    char path[256];
    for (int i = 0; i < 4 && !(i == 3 && joined); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cgroup.procs", HIERARCHIES[i]);
        if (access(path, F_OK)) continue;
        snprintf(groups[joined], sizeof groups[joined], "/sys/fs/cgroup%s/neargate-floor-%d", HIERARCHIES[i], getpid());
        if (mkdir(groups[joined], 0755)) die(groups[joined]);
        snprintf(path, sizeof path, "%s/%s", groups[joined], LIMITS[i][0]);
        /* A controller that is not delegated has no such file. */
        write_file(path, LIMITS[i][1]);
        snprintf(path, sizeof path, "%s/%s", groups[joined], i == 3 ? "cgroup.procs" : "tasks");
        joins[joined] = open(path, O_WRONLY | O_CLOEXEC);
        if (joins[joined] < 0) die(path);
        joined++;
    }
}

static void become_container(const char *options) {
    for (int i = 0; i < joined; i++)
        if (write(joins[i], "0", 1) < 0) die("join cgroup");
    if (unshare(CLONE_NEWCGROUP)) die("unshare cgroup namespace");
    if (mount("overlay", "root", "overlay", 0, options)) die("mount overlay");
    if (chdir("root")) die("enter root");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("mount proc");
    if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")) die("mount dev");
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot root");
    if (umount2(".", MNT_DETACH)) die("detach old root");
    execl("/bin/busybox", "busybox", "true", (char *)NULL);
    die("execute");
}

static void run_once(const char *root, int network, int home, unsigned number) {
    char upper[32], work[32], options[4500];
    int sync[2], pidfd = -1;
    snprintf(upper, sizeof upper, "upper-%u", number);
    snprintf(work, sizeof work, "work-%u", number);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", root, upper, work);
    double start = now();
    if (mkdir(upper, 0755) || mkdir(work, 0755)) die("make upper directory");
    if (pipe2(sync, O_CLOEXEC)) die("make pipe");
    if (setns(network, CLONE_NEWNET)) die("enter network namespace");
    struct clone_args args = {
        .flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC,
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) die("clone");
    if (pid == 0) become_container(options);
    close(sync[1]);
    char byte;
    if (read(sync[0], &byte, 1) < 0) die("wait for exec");
    double executed = now();
    siginfo_t info;
    if (waitid(P_PIDFD, pidfd, &info, WEXITED)) die("wait for exit");
    double ended = now();
    if (info.si_code != CLD_EXITED || info.si_status != 0) die("the program failed");
    printf("%f %f\n", executed - start, ended - start);
    fflush(stdout);
    close(sync[0]);
    close(pidfd);
    if (setns(home, CLONE_NEWNET)) die("leave network namespace");
    snprintf(options, sizeof options, "%s/work", work);
    /* The overlay lets go of them a moment after the namespace. What stays goes with the tmpfs. */
    rmdir(options), rmdir(work), rmdir(upper);
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    char line[16];
    make_groups();
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0 || unshare(CLONE_NEWNET)) die("make network namespace");
    int network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (network < 0 || setns(home, CLONE_NEWNET) || unshare(CLONE_NEWNS)) die("make mount namespace");
    if (mount("none", "/", NULL, MS_PRIVATE | MS_REC, NULL)) die("make mounts private");
    if (mount("tmpfs", arguments[2], "tmpfs", 0, "mode=700")) die("mount scratch");
    if (chdir(arguments[2]) || mkdir("root", 0755)) die("enter scratch");
    for (unsigned number = 0; fgets(line, sizeof line, stdin); number++)
        run_once(arguments[1], network, home, number);
    for (int i = 0; i < joined; i++)
        rmdir(groups[i]);
    return 0;
}
