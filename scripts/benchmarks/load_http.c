// HTTP/1.1 on connections that are kept: hivemem's API, and etcd's gateway from JSON to gRPC.
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SESSION "/v1/kv/default/bench/" // where the Redis door stores what is tagged {bench}

static void http_open(struct connection *c) { c->ready = true; }

static void post(struct connection *c, const char *path, const struct bytes *body) {
    bytes_print(&c->out,
                "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n"
                "Content-Length: %zu\r\n\r\n",
                path, options.host, options.port, held(body));
    bytes_append(&c->out, head_of(body), held(body));
}

static bool hivemem_batch(struct connection *c, uint32_t first) {
    static struct bytes body;
    body.start = body.end = 0;
    bytes_print(&body, "{\"operations\":[");
    for (unsigned i = 0; i < options.batch; i++) {
        uint32_t key = (first + i) % options.keys;
        bytes_print(&body, "%s{\"op\":\"put\",\"namespace\":\"default\",", i ? "," : "");
        bytes_print(&body, "\"session\":\"bench\",\"key\":\"");
        key_name(bytes_room(&body, KEY_BYTES), key);
        body.end += KEY_BYTES;
        bytes_print(&body, "\",\"value\":\"");
        value_fill(bytes_room(&body, options.value_bytes), key);
        body.end += options.value_bytes;
        bytes_print(&body, "\"}");
    }
    bytes_print(&body, "]}");
    post(c, "/v1/batch", &body);
    return true;
}

static bool hivemem_request(struct connection *c, unsigned slot) {
    uint32_t key = c->slots[slot].key;
    char name[KEY_BYTES + 1] = {0};
    key_name(name, key);
    if (c->slots[slot].read) {
        bytes_print(&c->out, "GET " SESSION "%s%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", name,
                    options.stale ? "?consistency=stale" : "", options.host, options.port);
        return true;
    }
    if (options.batch > 1) return hivemem_batch(c, key);
    bytes_print(&c->out, "PUT " SESSION "%s HTTP/1.1\r\nHost: %s:%s\r\nContent-Length: %u\r\n\r\n",
                name, options.host, options.port, options.value_bytes);
    value_fill(bytes_room(&c->out, options.value_bytes), key);
    c->out.end += options.value_bytes;
    return true;
}

static size_t base64(char *to, const char *from, size_t length) {
    static const char letters[65] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *at = to;
    for (size_t i = 0; i < length; i += 3) {
        uint32_t three = (uint32_t)(uint8_t)from[i] << 16;
        if (i + 1 < length) three |= (uint32_t)(uint8_t)from[i + 1] << 8;
        if (i + 2 < length) three |= (uint8_t)from[i + 2];
        *at++ = letters[three >> 18];
        *at++ = letters[three >> 12 & 63];
        *at++ = i + 1 < length ? letters[three >> 6 & 63] : '=';
        *at++ = i + 2 < length ? letters[three & 63] : '=';
    }
    return (size_t)(at - to);
}

static void base64_append(struct bytes *out, const char *from, size_t length) {
    out->end += base64(bytes_room(out, (length + 2) / 3 * 4), from, length);
}

static bool etcd_request(struct connection *c, unsigned slot) {
    static struct bytes body, value;
    char name[KEY_BYTES];
    body.start = body.end = value.start = value.end = 0;
    key_name(name, c->slots[slot].key);
    bytes_print(&body, "{\"key\":\"");
    base64_append(&body, name, KEY_BYTES);
    if (c->slots[slot].read) {
        bytes_print(&body, "\"%s}", options.stale ? ",\"serializable\":true" : "");
        post(c, "/v3/kv/range", &body);
        return true;
    }
    bytes_print(&body, "\",\"value\":\"");
    value_fill(bytes_room(&value, options.value_bytes), c->slots[slot].key);
    base64_append(&body, head_of(&value), options.value_bytes);
    bytes_print(&body, "\"}");
    post(c, "/v3/kv/put", &body);
    return true;
}

// An answer: `head_bytes` with the empty line; the body is put together when it was chunked.
struct message {
    int status;
    size_t head_bytes, taken, body_bytes;
    char *body;
    bool chunked;
};

static const char *field_of(const char *head, size_t length, const char *name) {
    size_t name_bytes = strlen(name);
    const char *line = head, *end = head + length;
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line + name_bytes < end)
        if (strncasecmp(line, name, name_bytes) == 0 && line[name_bytes] == ':')
            return line + name_bytes + 1;
    return NULL;
}

// Joins the chunks where they lie, once all are there. 1: whole; 0: more to come; -1: damaged.
static int join_chunks(const struct bytes *in, struct message *m) {
    const char *data = head_of(in), *end = data + held(in);
    for (int pass = 0; pass < 2; pass++) { // the first one only looks whether all are there
        const char *at = data + m->head_bytes;
        m->body_bytes = 0;
        for (;;) {
            const char *line_end = memchr(at, '\n', (size_t)(end - at));
            if (!line_end) return 0;
            size_t length = strtoul(at, NULL, 16);
            if (length > 64u << 20) return -1;
            at = line_end + 1;
            if ((size_t)(end - at) < length + 2) return 0;
            if (pass == 1) memmove(m->body + m->body_bytes, at, length);
            m->body_bytes += length;
            at += length + 2;
            if (length == 0) break; // no trailers are expected behind it
        }
        m->taken = (size_t)(at - data);
    }
    return 1;
}

static int parse_message(const struct bytes *in, struct message *m) {
    char *data = head_of(in);
    const char *end = held(in) > 4 ? memmem(data, held(in), "\r\n\r\n", 4) : NULL;
    if (!end) return held(in) > 65536 ? -1 : 0;
    *m = (struct message){.head_bytes = (size_t)(end + 4 - data)};
    if (memcmp(data, "HTTP/1.1 ", 9) != 0) return -1;
    m->status = atoi(data + 9);
    m->body = data + m->head_bytes;
    const char *length = field_of(data, m->head_bytes, "content-length");
    const char *encoding = field_of(data, m->head_bytes, "transfer-encoding");
    if (encoding) return join_chunks(in, m);
    if (!length) return -1;
    m->body_bytes = strtoul(length, NULL, 10);
    m->taken = m->head_bytes + m->body_bytes;
    return held(in) >= m->taken;
}

static bool begins(const struct message *m, const char *text) {
    return m->body_bytes >= strlen(text) && memcmp(m->body, text, strlen(text)) == 0;
}

static bool hivemem_expected(const struct slot *slot, const struct message *m) {
    if (m->status != 200) return false;
    if (slot->read) return value_is(m->body, m->body_bytes, slot->key);
    if (options.batch == 1) return begins(m, "{\"version\":");
    unsigned written = 0; // a batch may be accepted with some of its writes refused
    const char *at = m->body, *end = m->body + m->body_bytes;
    while ((at = memmem(at, (size_t)(end - at), "\"status\":200", 12))) at += 12, written++;
    return written == options.batch;
}

static bool etcd_expected(const struct slot *slot, const struct message *m) {
    if (m->status != 200 || !begins(m, "{\"header\":")) return false;
    if (!slot->read) return true;
    const char *value = memmem(m->body, m->body_bytes, "\"value\":\"", 9);
    if (!value) return false;
    value += 9;
    const char *end = memchr(value, '"', (size_t)(m->body + m->body_bytes - value));
    char plain[VALUE_HEAD_BYTES], head[VALUE_HEAD_BYTES / 3 * 4];
    value_head(plain, slot->key);
    base64(head, plain, sizeof plain);
    return end && (size_t)(end - value) == (options.value_bytes + 2) / 3 * 4 &&
           memcmp(value, head, sizeof head) == 0;
}

static struct answer http_next(struct connection *c,
                               bool (*expected)(const struct slot *, const struct message *)) {
    struct message m;
    int whole = held(&c->in) ? parse_message(&c->in, &m) : 0;
    if (whole < 0) return broken(head_of(&c->in), held(&c->in) < 40 ? held(&c->in) : 40);
    if (whole == 0) return more();
    if (c->busy == 0) return broken("an answer that nobody asked for", 31);
    unsigned slot = c->next++;
    bytes_take(&c->in, m.taken); // the text stays where it is until the next read
    if (expected(&c->slots[slot], &m)) return ok(slot);
    char reason[REASON_BYTES];
    int length = snprintf(reason, sizeof reason, "%d %.*s", m.status,
                          (int)(m.body_bytes < 90 ? m.body_bytes : 90), m.body);
    return refused(slot, reason, (size_t)length);
}

static struct answer hivemem_next(struct connection *c) { return http_next(c, hivemem_expected); }
static struct answer etcd_next(struct connection *c) { return http_next(c, etcd_expected); }

const struct protocol http_hivemem = {
    .name = "http-hivemem",
    .open = http_open,
    .request = hivemem_request,
    .next = hivemem_next,
};
const struct protocol http_etcd = {
    .name = "http-etcd",
    .open = http_open,
    .request = etcd_request,
    .next = etcd_next,
};
