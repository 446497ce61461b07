// The Redis protocol (RESP 2), for hivemem and for Redis.
//
// With WAIT, a batch of commands is followed by one WAIT, and none of them counts before the
// replicas have answered: only that is what the other systems call acknowledged. A Redis
// replica with `appendfsync always` writes its file before it acknowledges.
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAG "{bench}" // one session of hivemem's; Redis takes it as a part of the name
#define WAIT_MS 5000

static void bulk(struct bytes *out, const char *text, size_t length) {
    bytes_print(out, "$%zu\r\n", length);
    bytes_append(out, text, length);
    bytes_append(out, "\r\n", 2);
}

static void key_bulk(struct bytes *out, uint32_t key) {
    char name[sizeof TAG - 1 + KEY_BYTES] = TAG;
    key_name(name + sizeof TAG - 1, key);
    bulk(out, name, sizeof name);
}

static void value_bulk(struct bytes *out, uint32_t key) {
    bytes_print(out, "$%u\r\n", options.value_bytes);
    value_fill(bytes_room(out, options.value_bytes), key);
    out->end += options.value_bytes;
    bytes_append(out, "\r\n", 2);
}

static void resp_open(struct connection *c) {
    c->ready = !options.stale;
    if (options.stale) bytes_print(&c->out, "*1\r\n$8\r\nREADONLY\r\n");
}

static bool resp_request(struct connection *c, unsigned slot) {
    uint32_t key = c->slots[slot].key;
    if (c->slots[slot].read) {
        bytes_print(&c->out, "*2\r\n$3\r\nGET\r\n");
        key_bulk(&c->out, key);
        return true;
    }
    if (options.wait) c->waits = true;
    if (options.batch == 1) {
        bytes_print(&c->out, "*3\r\n$3\r\nSET\r\n");
    } else {
        bytes_print(&c->out, "*%u\r\n$4\r\nMSET\r\n", 1 + 2 * options.batch);
    }
    for (unsigned i = 0; i < options.batch; i++) {
        uint32_t each = (key + i) % options.keys;
        key_bulk(&c->out, each);
        value_bulk(&c->out, each);
    }
    return true;
}

static void resp_batch_end(struct connection *c) {
    if (!c->waits) return;
    char count[16], deadline[16];
    snprintf(count, sizeof count, "%u", options.wait);
    snprintf(deadline, sizeof deadline, "%d", WAIT_MS);
    bytes_print(&c->out, "*3\r\n$4\r\nWAIT\r\n");
    bulk(&c->out, count, strlen(count));
    bulk(&c->out, deadline, strlen(deadline));
}

// One reply: its first line without the end, and the bytes of a bulk string.
struct reply {
    const char *line, *bulk;
    size_t line_bytes, bulk_bytes, taken;
};

// 1: whole; 0: there is more to come; -1: not RESP.
static int parse_reply(const struct bytes *in, struct reply *r) {
    *r = (struct reply){.line = head_of(in)};
    const char *end = memchr(r->line, '\n', held(in));
    if (!end) return held(in) > 4096 ? -1 : 0;
    if (end < r->line + 2 || end[-1] != '\r' || !strchr("+-:$_", *r->line)) return -1;
    r->line_bytes = (size_t)(end - 1 - r->line);
    r->taken = r->line_bytes + 2;
    if (*r->line != '$') return 1;
    long length = atol(r->line + 1);
    if (length < 0) return 1;
    r->bulk = end + 1;
    r->bulk_bytes = (size_t)length;
    r->taken += r->bulk_bytes + 2;
    return held(in) >= r->taken;
}

static bool as_expected(const struct slot *slot, const struct reply *r) {
    if (slot->read) return r->bulk && value_is(r->bulk, r->bulk_bytes, slot->key);
    return r->line_bytes == 3 && memcmp(r->line, "+OK", 3) == 0;
}

// The answer to WAIT stands for each command of its batch; it is taken with the last one.
static struct answer released(struct connection *c, const struct reply *r) {
    unsigned slot = c->next++;
    struct answer answer = ok(slot);
    if (c->held_reason) {
        answer = refused(slot, c->held_reason, strlen(c->held_reason));
    } else if (*r->line != ':' || atol(r->line + 1) < (long)options.wait) {
        answer = refused(slot, "WAIT: too few replicas", 22);
    }
    if (c->next == c->batch) {
        bytes_take(&c->in, r->taken);
        free(c->held_reason);
        c->held_reason = NULL;
        c->held = 0;
        c->waits = false;
    }
    return answer;
}

static struct answer resp_next(struct connection *c) {
    struct reply r;
    int whole = held(&c->in) ? parse_reply(&c->in, &r) : 0;
    if (whole < 0) return broken("not RESP", 8);
    if (whole == 0) return more();
    if (!c->ready) {
        if (*r.line != '+') return broken(r.line, r.line_bytes);
        c->ready = true;
        bytes_take(&c->in, r.taken);
        return skip();
    }
    if (c->busy == 0) return broken("an answer that nobody asked for", 31);
    if (c->waits && c->held == c->batch) return released(c, &r);
    unsigned slot = c->waits ? c->held++ : c->next;
    bool expected = as_expected(&c->slots[slot], &r);
    bytes_take(&c->in, r.taken); // the text stays where it is until the next read
    if (c->waits) {
        if (!expected && !c->held_reason) c->held_reason = strndup(r.line, r.line_bytes);
        return skip();
    }
    c->next++;
    return expected ? ok(slot) : refused(slot, r.line, r.line_bytes);
}

const struct protocol resp = {
    .name = "resp",
    .open = resp_open,
    .request = resp_request,
    .batch_end = resp_batch_end,
    .next = resp_next,
};
