/* The load generator for benchmarks.peers: thousands of event streams, a few pushing connections, one epoll, one thread.

       load PORT SILENCE STREAMS PUSHES

   Both files hold ready requests, each as "<user> <length>\n<bytes>"; users are numbers. If nothing arrives for SILENCE
   seconds, the rest counts as lost. Each line on stdin is a command; when it is done, its result is a line of JSON on stdout:

       open COUNT                               connect the next COUNT streams of the file, and wait for the heads of their responses
       leave COUNT                              disconnect the streams that were opened last; `open` connects them again
       saturate USER OUTSTANDING SECONDS        push whenever fewer than OUTSTANDING pushes are incomplete
       pace FIRST LAST RATE SECONDS             RATE pushes a second to users FIRST..LAST, at fixed times, whether answered or not
       listen SECONDS                           only read
       linger SECONDS                           the same, but add to what the last command counted
       reconnect                                from now on a stream that ends or is refused connects again
       reload SECONDS                            wait until all streams have ended once and are open again

   It works with any server: the files hold what it sends. It counts the words "changed" and "keepalive" in what it
   receives, also when a read cuts them; heads are left out. Anything unexpected ends it with a line on stderr. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { AT_ONCE = 64, RING = 64, BATCH = 512, SOURCES = 8, ANSWER = 2048 };
enum { WHEEL = 8192, BACKLOG = 1000, DEFAULT_RETRY = 1000 }; /* milliseconds, connects under way, milliseconds without `retry:` */
enum { OPENS_WITHIN = 300 }; /* seconds; a server may end streams as fast as they open */

struct request { int user, length; char *bytes; };
struct requests { struct request *all; int count; };
struct pusher { int fd, length; double sent_at; char answer[ANSWER]; };
struct end {               /* one connection, found by its descriptor */
    struct pusher *pusher; /* NULL: a stream */
    int user, begun;       /* begun: the head of its answer has ended */
    int request, retry;    /* its place in `streams`; the milliseconds it was asked to wait */
    unsigned received;     /* frames since the command began */
    int head_end, changed, keepalive; /* how much of each word the last bytes were */
};

static struct end *ends;
static struct requests streams, pushes;
static int *stream_count, *push_of; /* by user: open streams; its request in `pushes` */
static int *stream_fd;              /* by place in `streams` */
static double *pushed_at, silence;  /* by user */
static struct pusher **idle;
static int idle_count, pusher_count, users, epoll, port, opened, connected, connecting;
static int reconnect, ended, asked, refused, due[WHEEL], *next_due; /* due: which streams connect again in which millisecond */
static struct rlimit descriptors;

static long frames, keepalives, bytes, reads, delays_room; /* since the command began */
static int have[RING], members, complete; /* have[n % RING]: streams that have their n-th frame */
static double *delays, last_frame;        /* delays: NULL unless pacing, else room for delays_room of them */
static double *answers;                   /* NULL unless pacing, else room for as many as pushes are sent */
static long answered;

static void fail(const char *text, ...)
{
    va_list words;
    va_start(words, text);
    vfprintf(stderr, text, words);
    fputc('\n', stderr);
    exit(1);
}

static void *room(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    return memory ? memory : (fail("no memory"), NULL);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Advance the match of one of our three words; true when it is complete. */
static int matched(const char *word, int *so_far, char letter)
{
    *so_far = letter == word[*so_far] ? *so_far + 1 : letter == word[0];
    if (word[*so_far]) return 0;
    *so_far = 0;
    return 1;
}

static struct requests read_requests(const char *path)
{
    struct requests found = {0};
    struct request one;
    FILE *file = fopen(path, "r");
    while (file && fscanf(file, "%d %d", &one.user, &one.length) == 2) {
        one.bytes = room(one.length, 1);
        if (fgetc(file) != '\n' || fread(one.bytes, 1, one.length, file) != (size_t)one.length) fail("%s is cut", path);
        if (!(found.count & (found.count - 1))) /* at every power of two, twice the room */
            found.all = realloc(found.all, (found.count ? 2 * found.count : 1) * sizeof one);
        if (!found.all) fail("no memory");
        found.all[found.count++] = one;
        if (one.user >= users) users = one.user + 1;
    }
    if (!file || fclose(file)) fail("%s: %s", path, strerror(errno));
    return found;
}

static void send_request(int fd, struct request *request)
{
    if (send(fd, request->bytes, request->length, MSG_NOSIGNAL) != request->length) fail("send: %s", strerror(errno));
}

/* Connect from the next of eight addresses: with a single one the kernel takes longer and longer to find a free port. */
static int connect_to_server(struct end end)
{
    static unsigned made;
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in from = {AF_INET, 0, {htonl(0x7f000002 + made++ % SOURCES)}, {0}};
    struct sockaddr_in to = {AF_INET, htons(port), {htonl(0x7f000001)}, {0}};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &yes, sizeof yes);
    if (bind(fd, (void *)&from, sizeof from) || connect(fd, (void *)&to, sizeof to)) fail("connect: %s", strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    ends[fd] = end;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

static void push(int user)
{
    struct pusher *pusher = idle_count ? idle[--idle_count] : room(1, sizeof *pusher);
    if (!pusher->fd) {
        pusher->fd = connect_to_server((struct end){.pusher = pusher});
        if (!(idle = realloc(idle, ++pusher_count * sizeof *idle))) fail("no memory");
    }
    pusher->length = 0;
    pushed_at[user] = pusher->sent_at = now();
    send_request(pusher->fd, &pushes.all[push_of[user]]);
}

static int is_idle(struct pusher *pusher)
{
    int place = 0;
    while (place < idle_count && idle[place] != pusher) place++;
    return place < idle_count;
}

/* Its next push connects again. */
static void hang_up(struct pusher *pusher)
{
    close(pusher->fd);
    pusher->fd = 0;
}

/* Take a part of a response; after the last one the connection is free again. */
static void answer(struct pusher *pusher, const char *data, int length)
{
    char *text = pusher->answer, *body, *said;
    if (pusher->length + length >= ANSWER) fail("a push was answered with too much");
    memcpy(text + pusher->length, data, length);
    text[pusher->length += length] = 0;
    if (strncmp(text, "HTTP/1.1 2", pusher->length < 10 ? pusher->length : 10)) fail("a push failed: %s", text);
    if (!(body = strstr(text, "\r\n\r\n"))) return;
    said = strcasestr(text, "content-length:");
    if (pusher->length - (body + 4 - text) < (said && said < body ? atoi(said + 15) : 0)) return;
    idle[idle_count++] = pusher;
    if (answers) answers[answered++] = now() - pusher->sent_at;
}

/* Connect one stream of the file. */
static void connect_stream(int number)
{
    struct request *request = &streams.all[number];
    stream_fd[number] = connect_to_server((struct end){.user = request->user, .request = number});
    send_request(stream_fd[number], request);
    connecting++;
}

/* Take the end of a stream, or a refusal, and note when it connects again. */
static void end_stream(int fd)
{
    struct end *end = &ends[fd];
    int *slot = &due[((long)(now() * 1000) + (end->retry ? end->retry : DEFAULT_RETRY)) % WHEEL];
    next_due[end->request] = *slot;
    *slot = end->request;
    end->begun ? (connected--, ended++, asked += end->retry > 0) : (connecting--, refused++);
    close(fd);
}

/* Connect the streams whose time has come, below the server's backlog. */
static void connect_due(void)
{
    static long at;
    for (long until = now() * 1000, first = until - WHEEL + 1; (at = at > first ? at : first) < until; at++)
        for (int *slot = &due[at % WHEEL]; *slot >= 0;) {
            int number = *slot;
            if (connecting >= BACKLOG) return;
            *slot = next_due[number];
            connect_stream(number);
        }
}

static void frame(struct end *end)
{
    frames++;
    last_frame = now();
    if (delays && frames <= delays_room) delays[frames - 1] = last_frame - pushed_at[end->user];
    if (members && ++have[end->received++ % RING] == members) /* the oldest incomplete push has arrived everywhere */
        have[complete++ % RING] = 0;
}

static void stream(int fd, const char *data, int length)
{
    struct end *end = &ends[fd];
    const char *retry = reconnect ? strstr(data, "retry: ") : NULL;
    int at = 0, begins = !end->begun;
    if (begins && strncmp(data, "HTTP/1.1 200", 12)) {
        if (!reconnect) fail("a stream was refused: %.*s", length, data);
        end_stream(fd);
        return;
    }
    if (retry) end->retry = atoi(retry + 7);
    for (; at < length && !end->begun; at++) end->begun = matched("\r\n\r\n", &end->head_end, data[at]);
    if (begins && end->begun) connected++, connecting--;
    bytes += length - at;
    reads += at < length;
    for (; at < length; at++) {
        if (matched("changed", &end->changed, data[at])) frame(end);
        if (matched("keepalive", &end->keepalive, data[at])) keepalives++;
    }
}

/* Read what has arrived, waiting at most so long for the first; returns how many connections were ready. */
static int turn(double seconds)
{
    static char data[65536];
    struct epoll_event events[BATCH];
    int count = epoll_wait(epoll, events, BATCH, seconds > 0 ? (int)(seconds * 1000) + 1 : 0);
    for (int n = 0; n < count; n++) {
        struct end *end = &ends[events[n].data.fd];
        int length = recv(events[n].data.fd, data, sizeof data - 1, 0);
        if (length <= 0 && reconnect && (!end->pusher || is_idle(end->pusher))) {
            end->pusher ? hang_up(end->pusher) : end_stream(events[n].data.fd);
            continue;
        }
        if (length <= 0) fail("a %s ended: %s", end->pusher ? "push" : "stream", length ? strerror(errno) : "closed");
        data[length] = 0;
        end->pusher ? answer(end->pusher, data, length) : stream(events[n].data.fd, data, length);
    }
    return count;
}

/* Read what has arrived before, then count from zero. */
static void begin(void)
{
    while (turn(0)) continue;
    frames = keepalives = bytes = reads = complete = members = 0;
    memset(have, 0, sizeof have);
    for (rlim_t fd = 0; fd < descriptors.rlim_max; fd++) ends[fd].received = 0;
}

static void open_streams(int count)
{
    double heard = now(), began = heard;
    ended = refused = 0;
    int until = opened + count < streams.count ? opened + count : streams.count;
    while (connected < until) {
        connect_due();
        for (; opened < until && connecting < AT_ONCE; opened++) {
            connect_stream(opened);
            stream_count[streams.all[opened].user]++;
        }
        if (turn(0.1)) heard = now();
        if (now() - heard > silence || now() - began > OPENS_WITHIN) fail("%d of %d streams are not open", until - connected, count);
    }
    printf("{\"connected\": %d, \"refused\": %d, \"ended\": %d}\n", connected, refused, ended);
}

static void leave(int count)
{
    if (connected < opened) fail("%d streams are not open", opened - connected);
    for (; count && opened; count--, connected--) {
        stream_count[streams.all[--opened].user]--;
        close(stream_fd[opened]);
    }
    puts("{}");
}

/* The time runs from the first end to the last connect. */
static void reload(double seconds)
{
    int all = connected;
    double until = now() + seconds, first = 0;
    for (ended = asked = refused = 0; (ended < all || connected < all) && now() < until;) {
        connect_due();
        turn(0.005);
        if (ended && !first) first = now();
    }
    printf("{\"expected\": %d, \"ended\": %d, \"asked\": %d, \"refused\": %d, \"received\": %d, \"seconds\": %f}\n", all,
           ended, asked, refused, connected, now() - first);
}

static void saturate(int user, int outstanding, double seconds)
{
    int pushed = 0;
    begin();
    members = stream_count[user];
    double began = last_frame = now();
    for (double at = began; at < began + seconds || (complete < pushed && at < last_frame + silence); at = now()) {
        while (at < began + seconds && pushed - complete < outstanding) push(user), pushed++;
        turn(0.1);
    }
    printf("{\"pushes\": %d, \"expected\": %ld, \"frames\": %ld, \"reads\": %ld, \"bytes\": %ld, \"seconds\": %f}\n",
           pushed, (long)pushed * members, frames, reads, bytes, last_frame - began);
}

static int ascending(const void *one, const void *other)
{
    return *(double *)one < *(double *)other ? -1 : 1;
}

/* Sort some times and print two percentiles of them, and the longest. */
static void print_times(const char *name, double *times, long count)
{
    qsort(times, count, sizeof *times, ascending);
    printf("\"%sp50_ms\": %f, \"%sp99_ms\": %f, \"%slongest_ms\": %f, ", name, count ? times[count / 2] * 1e3 : -1,
           name, count ? times[count * 99 / 100] * 1e3 : -1, name, count ? times[count - 1] * 1e3 : -1);
}

/* Push to one user after the other in a random order, so that each has its frames before its next push. */
static void pace(int first, int last, double rate, double seconds)
{
    int *order = room(last - first + 1, sizeof *order), count = rate * seconds;
    long expected = 0;
    double late = 0;
    begin();
    srand(2);
    for (int n = 0; n <= last - first; n++) {
        int other = rand() % (n + 1);
        order[n] = order[other];
        order[other] = first + n;
    }
    for (int n = 0; n < count; n++) expected += stream_count[order[n % (last - first + 1)]];
    while (idle_count < pusher_count) turn(0.1); /* the answers to earlier pushes do not count */
    delays = room(delays_room = expected, sizeof *delays);
    answers = room(count, sizeof *answers);
    answered = 0;
    double began = last_frame = now();
    for (int n = 0; n < count; n++) {
        double due = began + n / rate, left;
        while ((left = due - now()) > 0) turn(left);
        if (-left > late) late = -left;
        push(order[n % (last - first + 1)]);
    }
    for (double until = now() + silence; (frames < expected || answered < count) && now() < until;) turn(0.1);
    long got = frames < expected ? frames : expected;
    printf("{\"expected\": %ld, \"frames\": %ld, ", expected, frames);
    print_times("", delays, got);
    print_times("answer_", answers, answered);
    printf("\"late_ms\": %f}\n", late * 1e3);
    delays = answers = NULL; /* a few hundred KiB for one command of a short life: not freed */
}

static void linger(double seconds)
{
    for (double until = now() + seconds, left; (left = until - now()) > 0;) turn(left);
    printf("{\"frames\": %ld, \"keepalives\": %ld, \"bytes\": %ld}\n", frames, keepalives, bytes);
}

int main(int words, char **word)
{
    char line[256];
    int a, b;
    double x, y;
    if (words != 5) fail("usage: load PORT SILENCE STREAMS PUSHES");
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max = descriptors.rlim_max < 1 << 20 ? descriptors.rlim_max : 1 << 20;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    port = atoi(word[1]);
    silence = atof(word[2]);
    streams = read_requests(word[3]);
    pushes = read_requests(word[4]);
    ends = room(descriptors.rlim_max, sizeof *ends);
    next_due = room(streams.count, sizeof *next_due);
    stream_fd = room(streams.count, sizeof *stream_fd);
    memset(due, -1, sizeof due);
    stream_count = room(users, sizeof *stream_count);
    push_of = room(users, sizeof *push_of);
    pushed_at = room(users, sizeof *pushed_at);
    for (int n = 0; n < pushes.count; n++) push_of[pushes.all[n].user] = n;
    epoll = epoll_create1(0);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %d", &a) == 1) open_streams(a);
        else if (sscanf(line, "leave %d", &a) == 1) leave(a);
        else if (sscanf(line, "saturate %d %d %lf", &a, &b, &x) == 3) saturate(a, b, x);
        else if (sscanf(line, "pace %d %d %lf %lf", &a, &b, &x, &y) == 4) pace(a, b, x, y);
        else if (sscanf(line, "listen %lf", &x) == 1) begin(), linger(x);
        else if (sscanf(line, "linger %lf", &x) == 1) linger(x);
        else if (sscanf(line, "reload %lf", &x) == 1) reload(x);
        else if (!strcmp(line, "reconnect\n")) reconnect = 1, puts("{}");
        else fail("unknown command: %s", line);
        fflush(stdout);
    }
    return 0;
}
