/* The lower bound for benchmarks.peers: a program that only does one send() for each frame of each stream.

       floor                 listens on a free port of 127.0.0.1 and prints it

   GET ...?app_id=bench&user=N   a stream of channel N: the head, `: connected`, then frames in chunks as gunicorn's
   POST /push/bench/N            one frame to every stream of the channel, then 204

   It checks no token, sends no keepalive, buffers nothing and answers nothing else. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 512, REQUEST = 4096 };
static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "d\r\n: connected\n\n\r\n";
static const char FRAME[] = "16\r\nevent: changed\ndata:\n\n\r\n"; /* the 22 bytes of synckit_notify.sse */
static const char DONE[] = "HTTP/1.1 204 No Content\r\n\r\n";

struct link { int next, previous, channel; }; /* by descriptor; 0: none */
static struct link *links;
static int *heads, channels; /* by channel: the descriptor that came last */

static void die(const char *text)
{
    perror(text);
    exit(1);
}

static void subscribe(int fd, int channel)
{
    if (channel >= channels) {
        heads = realloc(heads, 2 * (channel + 1) * sizeof *heads);
        if (!heads) die("channels");
        memset(heads + channels, 0, (2 * (channel + 1) - channels) * sizeof *heads);
        channels = 2 * (channel + 1);
    }
    links[fd] = (struct link){.next = heads[channel], .channel = channel};
    links[heads[channel]].previous = fd;
    heads[channel] = fd;
    send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL);
}

static void publish(int fd, int channel)
{
    for (int to = channel < channels ? heads[channel] : 0; to; to = links[to].next)
        send(to, FRAME, sizeof FRAME - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    send(fd, DONE, sizeof DONE - 1, MSG_NOSIGNAL);
}

static void forget(int fd)
{
    struct link *link = &links[fd];
    if (link->channel >= 0) {
        if (link->previous) links[link->previous].next = link->next;
        else heads[link->channel] = link->next;
        links[link->next].previous = link->previous;
    }
    close(fd);
}

static void serve(int fd)
{
    char request[REQUEST + 1], *user;
    int length = recv(fd, request, REQUEST, 0);
    if (length <= 0) {
        forget(fd);
        return;
    }
    request[length] = 0;
    if ((user = strstr(request, "&user=")) && !strncmp(request, "GET ", 4)) subscribe(fd, atoi(user + 6));
    else if (!strncmp(request, "POST /push/bench/", 17)) publish(fd, atoi(request + 17));
    else forget(fd);
}

int main(void)
{
    struct epoll_event events[BATCH], event = {.events = EPOLLIN};
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    struct rlimit limit;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max = limit.rlim_max < 1 << 20 ? limit.rlim_max : 1 << 20;
    setrlimit(RLIMIT_NOFILE, &limit);
    links = calloc(limit.rlim_max, sizeof *links);
    if (!links || bind(listener, (void *)&here, size) || listen(listener, 2048)) die("listen");
    getsockname(listener, (void *)&here, &size);
    printf("listening at http://127.0.0.1:%d\n", ntohs(here.sin_port));
    fflush(stdout);
    event.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, BATCH, -1);
        for (int n = 0; n < count; n++) {
            if (events[n].data.fd != listener) {
                serve(events[n].data.fd);
                continue;
            }
            int fd = accept(listener, NULL, NULL);
            if (fd < 0) die("accept");
            links[fd].channel = -1; /* not yet a stream */
            event.data.fd = fd;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
