// The load generator: one thread, epoll, closed loops.
//
// A connection sends `depth` requests, waits for all their answers and sends the next ones; with
// gRPC each of its `depth` streams does so by itself. Every answer is looked at: what is not the
// answer that was asked for is an error, and errors are no operations. Rates and latencies are of
// what was answered between the end of the warm-up and the end; `answered`, `errors` and
// `unanswered` are of the whole run and add up to `sent`. One JSON object is printed.
//
// load_data.c holds buffers and the histogram, one load_*.c each protocol.
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (64 << 10)
#define DRAIN_SECONDS 6.0 // for what is under way at the end; hivemem gives up after 5
#define KINDS_MAX 16      // different errors that are told apart

struct options options = {
    .host = "127.0.0.1", .connections = 1, .depth = 1, .batch = 1, .value_bytes = 100,
    .keys = 100000, .warmup = 1, .seconds = 5, .seed = 1,
};

static struct {
    uint64_t begin, measured_from, end, last_answer; // ns
    uint64_t sent, answered, errors, operations;     // requests; operations while measuring
    unsigned busy, open;                             // requests under way, connections
    struct histogram latencies;
    struct { char reason[REASON_BYTES]; uint64_t count; } kinds[KINDS_MAX];
} run;

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mixed(uint64_t z) { // splitmix64 (Steele, Lea, Flood 2014)
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t random_bits(void) { return mixed(options.seed += 0x9e3779b97f4a7c15u); }

// Which key comes next

// Zipf's law with exponent 0.99, as in YCSB (Gray et al. 1994, "Quickly generating
// billion-record synthetic databases"). Ranks are scattered, so that hot keys are no neighbours.
static uint32_t zipfian_key(void) {
    static double zeta, alpha, eta;
    const double theta = 0.99, n = options.keys, second = __builtin_pow(0.5, theta);
    if (zeta == 0) {
        for (unsigned i = 1; i <= options.keys; i++) zeta += 1 / __builtin_pow(i, theta);
        alpha = 1 / (1 - theta);
        eta = (1 - __builtin_pow(2 / n, 1 - theta)) / (1 - (1 + second) / zeta);
    }
    double u = (double)(random_bits() >> 11) / (double)(1ull << 53), rank;
    if (u * zeta < 1) rank = 0;
    else if (u * zeta < 1 + second) rank = 1;
    else rank = n * __builtin_pow(eta * u - eta + 1, alpha);
    return (uint32_t)(mixed((uint64_t)rank + 1) % options.keys);
}

static bool may_send(uint64_t now) {
    return now < run.end && (!options.count || run.sent < options.count);
}

static void choose(struct slot *slot) {
    slot->read = options.reads_percent && random_bits() % 100 < options.reads_percent;
    if (options.count)
        slot->key = (uint32_t)((options.first + run.sent * options.batch) % options.keys);
    else if (options.zipfian) slot->key = zipfian_key();
    else slot->key = (uint32_t)(random_bits() % options.keys);
}

// Sending and receiving

static int poller;

static void watch(struct connection *c, bool writable) {
    if (c->writable_wanted == writable) return;
    c->writable_wanted = writable;
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void count_error(const char *reason, uint64_t count) {
    run.errors += count;
    for (unsigned i = 0; i < KINDS_MAX; i++) {
        bool last = i == KINDS_MAX - 1;
        if (!run.kinds[i].count) snprintf(run.kinds[i].reason, REASON_BYTES, "%s",
                                          last ? "others" : *reason ? reason : "no text");
        if (last || !*reason || strncmp(run.kinds[i].reason, reason, REASON_BYTES) == 0) {
            run.kinds[i].count += count;
            return;
        }
    }
}

static void close_connection(struct connection *c, const char *reason) {
    // Nothing is sent again: what this connection waited for has failed.
    count_error(reason, c->busy ? c->busy : 1);
    if (!c->busy) run.sent++; // so that the sum holds: a connection that is lost counts too
    run.busy -= c->busy;
    run.open--;
    c->busy = 0;
    close(c->fd);
    c->fd = -1;
}

static void flush(struct connection *c) {
    while (held(&c->out)) {
        ssize_t sent = send(c->fd, head_of(&c->out), held(&c->out), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) return watch(c, true);
        if (sent < 0) return close_connection(c, "connection lost while sending");
        bytes_take(&c->out, (size_t)sent);
    }
    watch(c, false);
}

static void send_requests(struct connection *c) {
    if (!c->ready || (c->busy && !options.protocol->independent)) return;
    uint64_t now = now_ns();
    c->next = 0;
    for (unsigned i = 0; i < options.depth && may_send(now); i++) {
        struct slot *slot = &c->slots[i];
        if (slot->busy) continue;
        choose(slot);
        if (!options.protocol->request(c, i)) break;
        slot->busy = true;
        slot->sent_ns = now;
        c->busy++;
        run.busy++;
        run.sent++;
    }
    c->batch = c->busy;
    if (c->busy && options.protocol->batch_end) options.protocol->batch_end(c);
}

static void count_answer(struct connection *c, const struct answer *answer) {
    struct slot *slot = &c->slots[answer->slot];
    uint64_t now = now_ns();
    slot->busy = false;
    c->busy--;
    run.busy--;
    if (answer->verdict == VERDICT_ERROR) return count_error(answer->reason, 1);
    run.answered++;
    run.last_answer = now;
    if (now < run.measured_from || now > run.end) return;
    run.operations += options.batch;
    histogram_add(&run.latencies, now - slot->sent_ns);
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, bytes_room(&c->in, READ_BYTES), READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return close_connection(c, "connection lost");
    c->in.end += (size_t)got;
    for (;;) {
        struct answer answer = options.protocol->next(c);
        if (answer.verdict == VERDICT_MORE) break;
        if (answer.verdict == VERDICT_BROKEN) return close_connection(c, answer.reason);
        if (answer.verdict != VERDICT_SKIP) count_answer(c, &answer);
    }
    send_requests(c);
    flush(c);
}

static void connect_all(struct connection *connections) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address;
    if (getaddrinfo(options.host, options.port, &hints, &address)) die("no such host");
    poller = epoll_create1(0);
    for (unsigned i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(address->ai_family, SOCK_STREAM, 0);
        if (connect(c->fd, address->ai_addr, address->ai_addrlen))
            die("cannot connect to %s:%s: %s", options.host, options.port, strerror(errno));
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        c->slots = calloc(options.depth, sizeof *c->slots);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
        options.protocol->open(c);
    }
    freeaddrinfo(address);
    run.open = options.connections;
}

static void run_load(void) {
    struct connection *connections = calloc(options.connections, sizeof *connections);
    connect_all(connections);
    run.begin = now_ns();
    run.measured_from = run.begin + (uint64_t)(options.warmup * 1e9);
    run.end = run.measured_from + (uint64_t)(options.seconds * 1e9);
    uint64_t give_up = run.end + (uint64_t)(DRAIN_SECONDS * 1e9);
    for (unsigned i = 0; i < options.connections; i++) {
        send_requests(&connections[i]);
        flush(&connections[i]);
    }
    for (uint64_t now = run.begin; run.open && now < give_up; now = now_ns()) {
        if (!run.busy && !may_send(now)) break;
        struct epoll_event events[256];
        int count = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && c->fd >= 0) flush(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT && c->fd >= 0) receive(c);
        }
    }
}

// Reports

static void print_latencies(const struct histogram *h) {
    const struct { const char *name; double share; } quantiles[] = {
        {"p50_ms", 0.5}, {"p99_ms", 0.99}, {"p999_ms", 0.999}};
    for (unsigned i = 0; i < 3; i++)
        printf(",\"%s\":%.6f", quantiles[i].name, histogram_quantile(h, quantiles[i].share) / 1e6);
    double mean = h->total ? (double)h->sum / (double)h->total : 0;
    printf(",\"mean_ms\":%.6f,\"max_ms\":%.6f", mean / 1e6, (double)h->max / 1e6);
}

static void print_run(void) {
    uint64_t until = options.count && run.last_answer ? run.last_answer : run.end;
    double seconds = (double)(until - run.measured_from) / 1e9;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"operations\":%lu,\"seconds\":%.6f,\"ops_per_s\":%.3f", run.operations, seconds,
           (double)run.operations / seconds);
    print_latencies(&run.latencies);
    printf(",\"sent\":%lu,\"answered\":%lu,\"errors\":%lu,\"unanswered\":%u,\"batch\":%u", run.sent,
           run.answered, run.errors, run.busy, options.batch);
    printf(",\"generator_cpu_s\":%.3f,\"generator_wall_s\":%.3f,\"error_kinds\":{", cpu,
           (double)(now_ns() - run.begin) / 1e9);
    for (unsigned i = 0; i < KINDS_MAX && run.kinds[i].count; i++)
        printf("%s\"%s\":%lu", i ? "," : "", run.kinds[i].reason, run.kinds[i].count);
    puts("}}");
}

// For tests: numbers of nanoseconds from standard input into the histogram.
static void show_histogram(void) {
    uint64_t value;
    while (scanf("%lu", &value) == 1) histogram_add(&run.latencies, value);
    printf("{\"count\":%lu", run.latencies.total);
    print_latencies(&run.latencies);
    puts("}");
}

// For tests: what the parser makes of the bytes on standard input, `chunk` of them at a time,
// while requests for the keys 0, 1, … are under way.
static void show_answers(size_t chunk) {
    static const char *verdicts[] = {"more", "skip", "ok", "error", "broken"};
    struct connection c = {.fd = 3, .slots = calloc(options.depth, sizeof *c.slots)};
    run.end = UINT64_MAX;
    options.count = options.depth;
    options.protocol->open(&c);
    send_requests(&c);
    for (size_t got;;) {
        got = fread(bytes_room(&c.in, chunk), 1, chunk, stdin);
        if (got == 0) return;
        c.in.end += got;
        struct answer a;
        while ((a = options.protocol->next(&c)).verdict != VERDICT_MORE) {
            if (a.verdict == VERDICT_SKIP && !c.busy) send_requests(&c); // it has become ready
            if (a.verdict == VERDICT_SKIP) continue;
            if (a.verdict == VERDICT_BROKEN) printf("broken %s\n", a.reason);
            else printf("%s %u %s\n", verdicts[a.verdict], a.slot, a.reason);
            if (a.verdict == VERDICT_BROKEN) return;
            count_answer(&c, &a);
        }
    }
}

// The command line

enum { PROTOCOL = 256, HOST, PORT, CONNECTIONS, DEPTH, BATCH, VALUE, KEYS, READS, COUNT, FIRST,
       ZIPFIAN, STALE, WAIT, WARMUP, SECONDS, SEED, HISTOGRAM, PARSE };

static const struct option names[] = {
    {"protocol", 1, 0, PROTOCOL}, {"host", 1, 0, HOST}, {"port", 1, 0, PORT},
    {"connections", 1, 0, CONNECTIONS}, {"depth", 1, 0, DEPTH}, {"batch", 1, 0, BATCH},
    {"value-bytes", 1, 0, VALUE}, {"keys", 1, 0, KEYS}, {"reads-percent", 1, 0, READS},
    {"count", 1, 0, COUNT}, {"first", 1, 0, FIRST}, {"zipfian", 0, 0, ZIPFIAN},
    {"stale", 0, 0, STALE}, {"wait", 1, 0, WAIT}, {"warmup", 1, 0, WARMUP},
    {"seconds", 1, 0, SECONDS}, {"seed", 1, 0, SEED}, {"histogram", 0, 0, HISTOGRAM},
    {"parse", 1, 0, PARSE}, {0, 0, 0, 0},
};

static const struct protocol *protocol_named(const char *name) {
    const struct protocol *all[] = {&resp, &http_hivemem, &http_etcd, &grpc_etcd, &nats_kv};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    die("no protocol is called %s", name);
}

static void set_option(int name, const char *value) {
    unsigned whole = value ? (unsigned)strtoul(value, NULL, 10) : 0;
    switch (name) {
    case PROTOCOL: options.protocol = protocol_named(value); break;
    case HOST: options.host = value; break;
    case PORT: options.port = value; break;
    case CONNECTIONS: options.connections = whole; break;
    case DEPTH: options.depth = whole; break;
    case BATCH: options.batch = whole; break;
    case VALUE: options.value_bytes = whole; break;
    case KEYS: options.keys = whole; break;
    case READS: options.reads_percent = whole; break;
    case COUNT: options.count = strtoull(value, NULL, 10); break;
    case FIRST: options.first = strtoull(value, NULL, 10); break;
    case ZIPFIAN: options.zipfian = true; break;
    case STALE: options.stale = true; break;
    case WAIT: options.wait = whole; break;
    case WARMUP: options.warmup = atof(value); break;
    case SECONDS: options.seconds = atof(value); break;
    case SEED: options.seed = strtoull(value, NULL, 10); break;
    default: die("the options are listed at the end of load.c");
    }
}

int main(int count, char **words) {
    bool histogram = false;
    size_t chunk = 0;
    for (int name; (name = getopt_long(count, words, "", names, NULL)) != -1;) {
        if (name == HISTOGRAM) histogram = true;
        else if (name == PARSE) chunk = strtoul(optarg, NULL, 10);
        else set_option(name, optarg);
    }
    if (histogram) return show_histogram(), 0;
    if (!options.protocol || (!options.port && !chunk)) die("--protocol and --port are needed");
    if (options.value_bytes < VALUE_HEAD_BYTES || options.value_bytes > 1 << 20 || !options.keys ||
        !options.connections || !options.depth || !options.batch || options.seconds <= 0)
        die("a number is out of range");
    if (options.batch > 1 && options.reads_percent) die("batches are of writes only");
    if (options.count) options.warmup = 0; // all of them are what is measured
    if (chunk) return show_answers(chunk), 0;
    run_load();
    print_run();
    return 0;
}
