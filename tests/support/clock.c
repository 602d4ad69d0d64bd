/* A clock that can be set for some processes only: the library for LD_PRELOAD behind clock.py.

   The file that CLOCK_FILE names holds the numbers of `struct setting`. It is mapped, so that a change takes
   effect at once in every process. Timers of the kernel and file times are left alone, but the epoll of a process whose
   clocks stand still has no timeout: it would wait, find that no time has passed, and wait again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct setting {
    int64_t ahead;   /* seconds by which the wall clock is ahead of the right time */
    int64_t stopped; /* the process whose clocks stand still */
    int64_t wall;    /* nanoseconds that its wall clock shows */
    int64_t steady;  /* nanoseconds that its steady clocks show */
};

static const volatile struct setting *setting;

__attribute__((constructor)) static void map_setting(void)
{
    const char *name = getenv("CLOCK_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *setting, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) setting = page;
    close(file);
}

static int is_stopped(void)
{
    return setting && setting->stopped && setting->stopped == getpid();
}

static int shown(int64_t nanoseconds, struct timespec *at)
{
    at->tv_sec = nanoseconds / 1000000000;
    at->tv_nsec = nanoseconds % 1000000000;
    return 0;
}

int clock_gettime(clockid_t id, struct timespec *at)
{
    static int (*real)(clockid_t, struct timespec *);
    int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
    int is_steady = id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW;
    if ((is_wall || is_steady) && is_stopped()) return shown(is_wall ? setting->wall : setting->steady, at);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real ? real(id, at) : (int)syscall(SYS_clock_gettime, id, at);
    if (!failed && setting && is_wall) at->tv_sec += setting->ahead;
    return failed;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    static int (*real)(int, struct epoll_event *, int, int);
    if (!real) real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    return real(epoll, events, most, timeout > 0 && is_stopped() ? -1 : timeout);
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
