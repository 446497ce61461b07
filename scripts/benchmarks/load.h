// The load generator's shared parts. How it works is told at the top of load.c.
#ifndef HIVEMEM_LOAD_H
#define HIVEMEM_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_BYTES 9         // "k" and eight digits
#define VALUE_HEAD_BYTES 18 // a value starts with its key, so that reads can be checked; in
                            // base64 that is a whole number of letters
#define REASON_BYTES 120    // of an error's text that is kept

// Bytes that are appended at one end and taken from the other.
struct bytes {
    char *data;
    size_t start, end, capacity; // what is held lies in data[start..end)
};

static inline size_t held(const struct bytes *b) { return b->end - b->start; }
static inline char *head_of(const struct bytes *b) { return b->data + b->start; }

void bytes_append(struct bytes *b, const void *data, size_t length);
void bytes_print(struct bytes *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *bytes_room(struct bytes *b, size_t length); // for so many more, to be written at once
void bytes_take(struct bytes *b, size_t length);

// Log buckets as in HdrHistogram: within a power of two 128 equal ones, so that a value is
// off by less than 1 %. Values are nanoseconds up to 2^40 (18 minutes).
#define HISTOGRAM_BITS 7
#define HISTOGRAM_BUCKETS ((40 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)
struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total, sum, max;
};

void histogram_add(struct histogram *h, uint64_t value);
double histogram_quantile(const struct histogram *h, double share); // nearest rank; 0 of nothing

// One request under way, and the closed loop that it belongs to.
struct slot {
    bool busy, read;
    uint32_t key;      // of its first operation
    uint32_t stream;   // gRPC: the stream's number
    uint64_t sent_ns;
    struct bytes body; // gRPC: the message as far as it has arrived
};

struct hpack {
    unsigned inserted;    // entries that this connection has put into the peer's table
    unsigned place[8];    // which of them a field is; 0: not there yet
};

struct connection {
    int fd;
    bool ready;           // the opening exchange is over: requests may be sent
    bool writable_wanted; // epoll looks for room in the socket
    struct bytes in, out;
    struct slot *slots;   // options.depth of them
    unsigned busy;        // slots that wait for an answer
    unsigned batch;       // requests that were sent together last, from slot 0 on
    unsigned next;        // the slot whose answer comes next, where answers come in order
    // RESP with WAIT: the answers to a batch's commands are held until the one to WAIT.
    bool waits;           // this batch ends with WAIT
    unsigned held;
    char *held_reason;    // of the first one that was refused in this batch, or NULL
    // gRPC
    struct hpack hpack;
    uint32_t stream_next;
    int64_t send_window;  // bytes of requests that the peer takes now, on all streams
    int64_t received;     // bytes since the peer's window was last opened
};

enum verdict {
    VERDICT_MORE,   // an answer is not there as a whole
    VERDICT_SKIP,   // something was taken that is no answer to a request
    VERDICT_OK,     // `slot` was answered as it should be
    VERDICT_ERROR,  // `slot` was answered with an error, or with something else than expected
    VERDICT_BROKEN, // the connection is of no use any more
};

struct answer {
    enum verdict verdict;
    unsigned slot;
    char reason[REASON_BYTES];
};

struct protocol {
    const char *name;
    // Whether answers come in any order and each slot is a closed loop of its own. Otherwise
    // `depth` requests are sent together, and the next ones when all of them are answered.
    bool independent;
    void (*open)(struct connection *c);
    // Append a slot's request to c->out. False: not now (flow control); it is asked again.
    bool (*request)(struct connection *c, unsigned slot);
    void (*batch_end)(struct connection *c); // after the last request of a batch; may be NULL
    struct answer (*next)(struct connection *c);
};

extern const struct protocol resp, http_hivemem, http_etcd, grpc_etcd, nats_kv;

struct options {
    const struct protocol *protocol;
    const char *host, *port;
    unsigned connections, depth;
    unsigned batch; // operations in one request; writes only
    unsigned value_bytes, keys, reads_percent;
    uint64_t count; // requests in all, over the keys in order; 0: as many as fit the time
    uint64_t first; // the key that those begin with
    bool zipfian, stale;
    unsigned wait;  // RESP: WAIT for so many replicas after each batch of writes
    double warmup, seconds;
    uint64_t seed;
};
extern struct options options;

uint64_t now_ns(void);
uint64_t random_bits(void);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

void key_name(char *to, uint32_t key);           // KEY_BYTES
void value_fill(char *to, uint32_t key);         // options.value_bytes, printable
void value_head(char *to, uint32_t key);         // VALUE_HEAD_BYTES, how a value begins
bool value_is(const char *value, size_t length, uint32_t key);

struct answer more(void);
struct answer skip(void);
struct answer ok(unsigned slot);
struct answer refused(unsigned slot, const char *text, size_t length);
struct answer broken(const char *text, size_t length);

#endif
