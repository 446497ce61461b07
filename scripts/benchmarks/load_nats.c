// A JetStream key-value bucket of NATS: a put is a message to the bucket's stream, which answers
// to the inbox that was named once the stream's replicas have it.
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUBJECT "$KV.bench."

static void nats_open(struct connection *c) { (void)c; } // the server speaks first

static bool nats_request(struct connection *c, unsigned slot) {
    char name[KEY_BYTES + 1] = {0};
    key_name(name, c->slots[slot].key);
    bytes_print(&c->out, "PUB " SUBJECT "%s _INBOX.c%d.%u %u\r\n", name, c->fd, slot,
                options.value_bytes);
    value_fill(bytes_room(&c->out, options.value_bytes), c->slots[slot].key);
    c->out.end += options.value_bytes;
    bytes_append(&c->out, "\r\n", 2);
    return true;
}

// MSG <subject> <sid> [<reply to>] [<bytes of headers>] <bytes>, and the payload.
static struct answer message(struct connection *c, const char *line, size_t line_bytes) {
    char words[256];
    if (line_bytes >= sizeof words) return broken("a long line", 11);
    memcpy(words, line, line_bytes);
    words[line_bytes] = 0;
    char *number = strrchr(words, ' '), *place = strchr(words, ' ');
    char *dot = place ? strchr(place, '.') : NULL; // behind _INBOX
    if (dot) dot = strchr(dot + 1, '.');
    if (!number || !dot) return broken(line, line_bytes);
    size_t length = strtoul(number, NULL, 10);
    unsigned slot = (unsigned)atoi(dot + 1);
    const char *payload = line + line_bytes + 2;
    if (held(&c->in) < line_bytes + 2 + length + 2) return more();
    bytes_take(&c->in, line_bytes + 2 + length + 2);
    if (slot >= options.depth || !c->slots[slot].busy) return broken("an answer to nothing", 20);
    bool stored = length > 10 && memcmp(payload, "{\"stream\":", 10) == 0 &&
                  !memmem(payload, length, "\"error\"", 7);
    return stored ? ok(slot) : refused(slot, payload, length);
}

static struct answer nats_next(struct connection *c) {
    if (!held(&c->in)) return more();
    const char *line = head_of(&c->in), *end = memchr(line, '\n', held(&c->in));
    if (!end) return more();
    if (end == line || end[-1] != '\r') return broken("not NATS", 8);
    size_t length = (size_t)(end - 1 - line);
    if (memcmp(line, "MSG ", 4) == 0 || memcmp(line, "HMSG", 4) == 0)
        return message(c, line, length);
    bytes_take(&c->in, length + 2);
    if (memcmp(line, "INFO", 4) == 0) {
        if (!c->ready)
            bytes_print(&c->out,
                        "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                        "\"no_responders\":true,\"lang\":\"c\",\"version\":\"1\"}\r\n"
                        "SUB _INBOX.c%d.* 1\r\nPING\r\n", c->fd);
    } else if (memcmp(line, "PONG", 4) == 0) {
        c->ready = true;
    } else if (memcmp(line, "PING", 4) == 0) {
        bytes_print(&c->out, "PONG\r\n");
    } else if (memcmp(line, "+OK", 3) != 0) {
        return broken(line, length);
    }
    return skip();
}

const struct protocol nats_kv = {
    .name = "nats-kv",
    .open = nats_open,
    .request = nats_request,
    .next = nats_next,
};
