// Buffers, the histogram, keys and values, answers: what every protocol uses.
#include "load.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *bytes_room(struct bytes *b, size_t length) {
    if (b->start == b->end) b->start = b->end = 0;
    if (b->end + length > b->capacity && b->start > 0) {
        memmove(b->data, b->data + b->start, held(b));
        b->end -= b->start;
        b->start = 0;
    }
    if (b->end + length > b->capacity) {
        b->capacity = (b->end + length) * 2;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) die("out of memory");
    }
    return b->data + b->end;
}

void bytes_append(struct bytes *b, const void *data, size_t length) {
    memcpy(bytes_room(b, length), data, length);
    b->end += length;
}

void bytes_print(struct bytes *b, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text) die("a line of more than 511 bytes");
    bytes_append(b, text, (size_t)length);
}

void bytes_take(struct bytes *b, size_t length) { b->start += length; }

static unsigned bucket_of(uint64_t value) {
    // Below 2^(HISTOGRAM_BITS + 1) each value has a bucket of its own.
    unsigned shift = 0;
    while (value >> shift >= 2u << HISTOGRAM_BITS) shift++;
    unsigned bucket = (shift << HISTOGRAM_BITS) + (unsigned)(value >> shift);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static double middle_of(unsigned bucket) {
    unsigned row = bucket >> HISTOGRAM_BITS;
    unsigned shift = row > 0 ? row - 1 : 0;
    uint64_t low = (uint64_t)(bucket - (shift << HISTOGRAM_BITS)) << shift;
    return (double)low + (double)((1ull << shift) - 1) / 2;
}

void histogram_add(struct histogram *h, uint64_t value) {
    h->counts[bucket_of(value)]++;
    h->total++;
    h->sum += value;
    if (value > h->max) h->max = value;
}

double histogram_quantile(const struct histogram *h, double share) {
    uint64_t rank = (uint64_t)(share * (double)h->total + 0.999999);
    if (rank < 1) rank = 1;
    uint64_t seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += h->counts[bucket];
        if (!h->counts[bucket] || seen < rank) continue;
        double middle = middle_of(bucket); // not beyond what there was
        return middle < (double)h->max ? middle : (double)h->max;
    }
    return 0;
}

void key_name(char *to, uint32_t key) {
    *to = 'k';
    for (char *digit = to + KEY_BYTES - 1; digit > to; digit--, key /= 10)
        *digit = (char)('0' + key % 10);
}

// Text without any pattern: what a store might save by compressing is not measured here.
#define FILLER_BYTES (1 << 20)
static char filler[FILLER_BYTES];

void value_head(char *to, uint32_t key) {
    memset(to, '0', VALUE_HEAD_BYTES - KEY_BYTES);
    key_name(to + VALUE_HEAD_BYTES - KEY_BYTES, key);
}

void value_fill(char *to, uint32_t key) {
    static const char letters[65] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if (!filler[0])
        for (unsigned i = 0; i < FILLER_BYTES; i++) filler[i] = letters[random_bits() >> 58];
    value_head(to, key);
    size_t length = options.value_bytes - VALUE_HEAD_BYTES;
    memcpy(to + VALUE_HEAD_BYTES, filler + random_bits() % (FILLER_BYTES - length), length);
}

bool value_is(const char *value, size_t length, uint32_t key) {
    char head[VALUE_HEAD_BYTES];
    value_head(head, key);
    return length == options.value_bytes && memcmp(value, head, sizeof head) == 0;
}

struct answer more(void) { return (struct answer){.verdict = VERDICT_MORE}; }
struct answer skip(void) { return (struct answer){.verdict = VERDICT_SKIP}; }
struct answer ok(unsigned slot) { return (struct answer){.verdict = VERDICT_OK, .slot = slot}; }

static void keep_reason(struct answer *a, const char *text, size_t length) {
    if (length >= REASON_BYTES) length = REASON_BYTES - 1;
    for (size_t i = 0; i < length; i++) { // as it goes into JSON
        bool plain = text[i] >= ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\';
        a->reason[i] = plain ? text[i] : ' ';
    }
}

struct answer refused(unsigned slot, const char *text, size_t length) {
    struct answer a = {.verdict = VERDICT_ERROR, .slot = slot};
    keep_reason(&a, text, length);
    return a;
}

struct answer broken(const char *text, size_t length) {
    struct answer a = {.verdict = VERDICT_BROKEN};
    keep_reason(&a, text, length);
    return a;
}
