/* Loads a network, and says what it bears. Static, so that it runs in any root file system.
 *
 *   netload serve PORT              answers each connection as its first byte asks for
 *   netload echo ADDRESS PORT N     N round trips of one byte: median and 99th percentile in microseconds
 *   netload send ADDRESS PORT MIB   sends so much: MiB a second
 *   netload get ADDRESS PORT N      N connections, each with a GET of /: microseconds as above
 *   netload name ADDRESS PORT N     N questions for an A record of localhost over UDP: microseconds as above
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (256 << 10)

static char block[BLOCK];

static void fail(const char *step) {
    perror(step);
    exit(1);
}

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static struct sockaddr_in at(const char *address, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) fail("read address");
    return to;
}

static int connected(const char *address, const char *port) {
    struct sockaddr_in to = at(address, port);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    return fd;
}

static void answer(int fd) {
    char kind;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (read(fd, &kind, 1) != 1) return;
    if (kind == 'e')
        while (write(fd, &kind, 1) == 1 && read(fd, &kind, 1) == 1) {}
    else {
        while (read(fd, block, BLOCK) > 0) {}
        /* All has arrived. */
        if (write(fd, &kind, 1) != 1) return;
    }
}

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

static void serve(const char *port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&own, sizeof own) || listen(fd, 16)) fail("listen");
    signal(SIGCHLD, SIG_IGN);
    /* The first process of a container ignores it otherwise. */
    signal(SIGTERM, leave);
    for (;;) {
        int connection = accept(fd, NULL, NULL);
        if (connection < 0) fail("accept");
        if (fork() == 0) {
            answer(connection);
            exit(0);
        }
        close(connection);
    }
}

static void send_much(int fd, long mib) {
    long left = mib << 20;
    char done = 's';
    double begun = now_us();
    if (write(fd, &done, 1) != 1) fail("send");
    while (left > 0) {
        ssize_t sent = write(fd, block, left < BLOCK ? left : BLOCK);
        if (sent < 0) fail("send");
        left -= sent;
    }
    shutdown(fd, SHUT_WR);
    if (read(fd, &done, 1) != 1) fail("receive");
    printf("%.1f\n", mib / ((now_us() - begun) / 1e6));
}

static void ask_name(int fd, const struct sockaddr_in *to, int number) {
    unsigned char question[] = "\0\0\1\0\0\1\0\0\0\0\0\0\11localhost\0\0\1\0\1", reply[512];
    question[0] = number >> 8, question[1] = number;
    if (sendto(fd, question, sizeof question - 1, 0, (struct sockaddr *)to, sizeof *to) < 0) fail("ask");
    do {
        if (recv(fd, reply, sizeof reply, 0) < 12) fail("be answered");
    } while (reply[0] != question[0] || reply[1] != question[1]);
}

static void get(const char *address, const char *port) {
    static const char request[] = "GET / HTTP/1.1\r\nHost: 169.254.170.2\r\nConnection: close\r\n\r\n";
    int fd = connected(address, port);
    if (write(fd, request, sizeof request - 1) < 0) fail("ask");
    if (read(fd, block, BLOCK) <= 0) fail("be answered");
    close(fd);
}

static int by_size(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) serve(argv[2]);
    if (argc != 5) return 2;
    const char *kind = argv[1], *address = argv[2], *port = argv[3];
    int count = atoi(argv[4]), is_name = !strcmp(kind, "name");
    if (!strcmp(kind, "send")) {
        send_much(connected(address, port), count);
        return 0;
    }
    double *times = calloc(count, sizeof *times);
    struct sockaddr_in to = at(address, port);
    struct timeval patience = {.tv_sec = 5};
    int fd = is_name ? socket(AF_INET, SOCK_DGRAM, 0) : !strcmp(kind, "echo") ? connected(address, port) : -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char byte = 'e';
    for (int i = 0; i < count; i++) {
        double begun = now_us();
        if (is_name) ask_name(fd, &to, i);
        else if (fd < 0) get(address, port);
        else if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) fail("echo");
        times[i] = now_us() - begun;
    }
    qsort(times, count, sizeof *times, by_size);
    printf("%.1f %.1f\n", times[count / 2], times[(long)count * 99 / 100]);
    return 0;
}
