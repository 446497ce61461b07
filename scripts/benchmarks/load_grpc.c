// etcd's own protocol: gRPC, that is HTTP/2 frames around hand-encoded protobuf messages.
//
// Each slot is a stream after another, so `depth` says how many streams share a connection.
// Our headers go into the peer's table once and are an index byte afterwards, as with etcd's
// own client. The peer is told to keep no table of its own (RFC 7541, 4.2), so that the trailers
// can be read without one: success is a message and `grpc-status: 0`.
#include "load.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7,
       WINDOW_UPDATE = 8 };
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4, PADDED = 8 };
#define FRAME_BYTES 9
#define FRAME_PAYLOAD_MAX (1 << 14) // what we allow the peer by saying nothing else
#define WINDOW (1 << 30)            // so much the peer may send before we open it again
#define REQUEST_BYTES_MAX 60000     // below the window that a new stream begins with

static void frame(struct bytes *out, size_t length, int type, int flags, uint32_t stream) {
    uint32_t network_stream = htonl(stream);
    char head[FRAME_BYTES] = {(char)(length >> 16), (char)(length >> 8), (char)length, (char)type,
                              (char)flags};
    memcpy(head + 5, &network_stream, 4);
    bytes_append(out, head, sizeof head);
}

static void number(struct bytes *out, uint32_t value) {
    uint32_t network = htonl(value);
    bytes_append(out, &network, 4);
}

static void window_update(struct connection *c, uint32_t more_bytes) {
    frame(&c->out, 4, WINDOW_UPDATE, 0, 0);
    number(&c->out, more_bytes);
}

static void grpc_open(struct connection *c) {
    bytes_print(&c->out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frame(&c->out, 12, SETTINGS, 0, 0);
    bytes_append(&c->out, "\0\1\0\0\0\0" "\0\4", 8); // HEADER_TABLE_SIZE 0, INITIAL_WINDOW_SIZE
    number(&c->out, WINDOW);
    window_update(c, WINDOW);
    c->stream_next = 1;
    c->send_window = 65535;
    c->ready = true;
}

// Requests

enum field { PATH_PUT, PATH_RANGE, PATH_TXN, AUTHORITY, CONTENT_TYPE, TE };

static void header(struct connection *c, struct bytes *block, enum field field, int name_index,
                   const char *name, const char *value) {
    struct hpack *table = &c->hpack;
    if (table->place[field]) { // 61 static entries come before the dynamic ones, newest first
        char index = (char)(0x80 | (62 + table->inserted - table->place[field]));
        bytes_append(block, &index, 1);
        return;
    }
    table->place[field] = ++table->inserted;
    char first = (char)(0x40 | name_index); // literal, to be indexed; 0: the name is given too
    bytes_append(block, &first, 1);
    if (!name_index) {
        char length = (char)strlen(name);
        bytes_append(block, &length, 1);
        bytes_append(block, name, strlen(name));
    }
    char length = (char)strlen(value);
    bytes_append(block, &length, 1);
    bytes_append(block, value, strlen(value));
}

static void headers(struct connection *c, struct bytes *block, enum field path, const char *name) {
    char authority[100];
    snprintf(authority, sizeof authority, "%s:%s", options.host, options.port);
    bytes_append(block, "\x83\x86", 2); // :method POST, :scheme http
    header(c, block, path, 4, NULL, name);
    header(c, block, AUTHORITY, 1, NULL, authority);
    header(c, block, CONTENT_TYPE, 31, NULL, "application/grpc");
    header(c, block, TE, 0, "te", "trailers");
}

static void varint(struct bytes *out, uint64_t value) {
    char byte;
    for (; value >= 0x80; value >>= 7) {
        byte = (char)(value | 0x80);
        bytes_append(out, &byte, 1);
    }
    byte = (char)value;
    bytes_append(out, &byte, 1);
}

// PutRequest {bytes key = 1; bytes value = 2;}
static void put_message(struct bytes *out, uint32_t key) {
    bytes_append(out, "\x0a", 1);
    varint(out, KEY_BYTES);
    key_name(bytes_room(out, KEY_BYTES), key);
    out->end += KEY_BYTES;
    bytes_append(out, "\x12", 1);
    varint(out, options.value_bytes);
    value_fill(bytes_room(out, options.value_bytes), key);
    out->end += options.value_bytes;
}

// TxnRequest {repeated RequestOp success = 2;}, RequestOp {PutRequest request_put = 2;}
static void txn_message(struct bytes *out, uint32_t first) {
    static struct bytes put, operation;
    for (unsigned i = 0; i < options.batch; i++) {
        put.start = put.end = operation.start = operation.end = 0;
        put_message(&put, (first + i) % options.keys);
        bytes_append(&operation, "\x12", 1);
        varint(&operation, held(&put));
        bytes_append(&operation, head_of(&put), held(&put));
        bytes_append(out, "\x12", 1);
        varint(out, held(&operation));
        bytes_append(out, head_of(&operation), held(&operation));
    }
}

// RangeRequest {bytes key = 1; bool serializable = 7;}
static void range_message(struct bytes *out, uint32_t key) {
    bytes_append(out, "\x0a", 1);
    varint(out, KEY_BYTES);
    key_name(bytes_room(out, KEY_BYTES), key);
    out->end += KEY_BYTES;
    if (options.stale) bytes_append(out, "\x38\x01", 2);
}

static void data_frames(struct connection *c, const struct bytes *message) {
    char prefix[5] = {0}; // not compressed, and the length
    uint32_t length = htonl((uint32_t)held(message));
    memcpy(prefix + 1, &length, 4);
    size_t left = held(message) + sizeof prefix, at = 0;
    while (left > 0) {
        size_t part = left < FRAME_PAYLOAD_MAX ? left : FRAME_PAYLOAD_MAX;
        frame(&c->out, part, DATA, part == left ? END_STREAM : 0, c->stream_next);
        size_t taken = at == 0 ? sizeof prefix : 0;
        bytes_append(&c->out, prefix, taken);
        bytes_append(&c->out, head_of(message) + at, part - taken);
        at += part - taken;
        left -= part;
    }
}

static bool grpc_request(struct connection *c, unsigned slot) {
    static struct bytes message, block;
    struct slot *s = &c->slots[slot];
    message.start = message.end = block.start = block.end = 0;
    enum field path = s->read ? PATH_RANGE : options.batch > 1 ? PATH_TXN : PATH_PUT;
    if (path == PATH_RANGE) range_message(&message, s->key);
    if (path == PATH_PUT) put_message(&message, s->key);
    if (path == PATH_TXN) txn_message(&message, s->key);
    if (held(&message) > REQUEST_BYTES_MAX) die("a request does not fit a new stream's window");
    if ((int64_t)held(&message) + 5 > c->send_window) return false;
    c->send_window -= (int64_t)held(&message) + 5;
    static const char *names[] = {"/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range",
                                  "/etcdserverpb.KV/Txn"};
    headers(c, &block, path, names[path]);
    frame(&c->out, held(&block), HEADERS, END_HEADERS, c->stream_next);
    bytes_append(&c->out, head_of(&block), held(&block));
    data_frames(c, &message);
    s->stream = c->stream_next;
    s->body.start = s->body.end = 0;
    c->stream_next += 2;
    return true;
}

// Answers

// Finds a field in a protobuf message: where its bytes begin and how many they are, or the value
// of a number. NULL: absent or damaged.
static const uint8_t *pb_field(const uint8_t *at, size_t length, uint64_t wanted, size_t *found) {
    const uint8_t *end = at + length;
    while (at < end) {
        uint64_t parts[2] = {0, 0}; // the tag, then the value or length
        for (int part = 0; part < 2; part++)
            for (int shift = 0;; shift += 7) {
                if (at >= end || shift > 63) return NULL;
                parts[part] |= (uint64_t)(*at & 0x7f) << shift;
                if (!(*at++ & 0x80)) break;
            }
        bool bytes = (parts[0] & 7) == 2;
        if ((parts[0] & 7) != 0 && (!bytes || parts[1] > (uint64_t)(end - at))) return NULL;
        if (parts[0] >> 3 == wanted) {
            *found = parts[1];
            return at;
        }
        if (bytes) at += parts[1];
    }
    return NULL;
}

static bool message_expected(const struct slot *s) {
    const uint8_t *body = (const uint8_t *)head_of(&s->body);
    size_t length = held(&s->body), found = 0;
    if (length < 5 || body[0] != 0) return false;
    uint32_t announced;
    memcpy(&announced, body + 1, 4);
    body += 5, length -= 5;
    if (ntohl(announced) != length) return false;
    const uint8_t *inner = pb_field(body, length, 1, &found); // ResponseHeader header = 1
    if (!inner || found == 0) return false;
    if (!s->read && options.batch > 1) // TxnResponse.succeeded
        return pb_field(body, length, 2, &found) && found == 1;
    if (!s->read) return true;
    inner = pb_field(body, length, 2, &found); // RangeResponse.kvs, the first of them
    if (inner) inner = pb_field(inner, found, 5, &found); // KeyValue.value
    return inner && value_is((const char *)inner, found, s->key);
}

struct text {
    const uint8_t *data;
    size_t length;
    bool huffman;
};

// A string of HPACK; false: it reaches beyond the block. Ours are shorter than 127 bytes or
// carry a length of several bytes.
static bool string(const uint8_t **at, const uint8_t *end, struct text *text) {
    if (*at >= end) return false;
    text->huffman = **at & 0x80;
    text->length = *(*at)++ & 0x7f;
    if (text->length == 0x7f)
        for (int shift = 0;; shift += 7) {
            if (*at >= end || shift > 21) return false;
            text->length += (size_t)(**at & 0x7f) << shift;
            if (!(*(*at)++ & 0x80)) break;
        }
    text->data = *at;
    if (text->length > (size_t)(end - *at)) return false;
    *at += text->length;
    return true;
}

// The value of `grpc-status` in a block of headers; false: it is not there.
static bool grpc_status(const uint8_t *at, size_t length, struct text *value) {
    static const uint8_t huffman_name[] = {0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f};
    const uint8_t *end = at + length;
    while (at < end) {
        if (*at & 0x80) { // an entry of the static table, :status
            at++;
            continue;
        }
        if ((*at & 0xe0) == 0x20) { // the size of the table, which is 0
            at++;
            continue;
        }
        bool indexing = *at & 0x40;
        unsigned index = *at & (indexing ? 0x3f : 0x0f), mask = indexing ? 0x3f : 0x0f;
        at++;
        if (index == mask) at++; // names of the static table end at 61: one more byte
        struct text name = {0};
        if (index == 0 && !string(&at, end, &name)) return false;
        if (!string(&at, end, value)) return false;
        if (name.huffman ? name.length == 8 && memcmp(name.data, huffman_name, 8) == 0
                         : name.length == 11 && memcmp(name.data, "grpc-status", 11) == 0)
            return true;
    }
    return false;
}

static struct answer stream_ended(struct connection *c, unsigned slot, const uint8_t *block,
                                  size_t length) {
    struct text status = {0};
    char reason[REASON_BYTES];
    if (!grpc_status(block, length, &status)) return refused(slot, "no grpc-status", 14);
    // '0' is five zero bits in the Huffman code, filled up with ones.
    bool zero = status.length == 1 && status.data[0] == (status.huffman ? 0x07 : '0');
    if (zero && message_expected(&c->slots[slot])) return ok(slot);
    if (zero) return refused(slot, "an unexpected message", 21);
    int said = snprintf(reason, sizeof reason, "grpc-status%s %.*s",
                        status.huffman ? " (Huffman code)" : "", (int)status.length,
                        (const char *)status.data);
    return refused(slot, reason, (size_t)said < sizeof reason ? (size_t)said : sizeof reason - 1);
}

static struct answer stream_frame(struct connection *c, int type, int flags, uint32_t stream,
                                  const uint8_t *payload, size_t length) {
    unsigned slot = 0;
    while (slot < options.depth && (!c->slots[slot].busy || c->slots[slot].stream != stream))
        slot++;
    if (slot == options.depth) return skip(); // e.g. a window of a stream that has ended
    if (type == RST_STREAM) return refused(slot, "stream reset", 12);
    if (type == DATA) bytes_append(&c->slots[slot].body, payload, length);
    if (flags & END_STREAM && type == DATA) return refused(slot, "no trailers", 11);
    if (flags & END_STREAM && type == HEADERS) return stream_ended(c, slot, payload, length);
    return skip();
}

static struct answer grpc_next(struct connection *c) {
    if (held(&c->in) < FRAME_BYTES) return more();
    const uint8_t *at = (const uint8_t *)head_of(&c->in), *payload = at + FRAME_BYTES;
    size_t length = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
    int type = at[3], flags = at[4];
    uint32_t stream, number_sent;
    memcpy(&stream, at + 5, 4);
    stream = ntohl(stream) & 0x7fffffff;
    if (length > FRAME_PAYLOAD_MAX) return broken("not HTTP/2, or too large a frame", 32);
    if (held(&c->in) < FRAME_BYTES + length) return more();
    bytes_take(&c->in, FRAME_BYTES + length); // what it held stays there until the next read
    switch (type) {
    case SETTINGS:
        if (!(flags & ACK)) frame(&c->out, 0, SETTINGS, ACK, 0);
        return skip();
    case PING:
        if (flags & ACK || length != 8) return skip();
        frame(&c->out, 8, PING, ACK, 0);
        bytes_append(&c->out, payload, 8);
        return skip();
    case WINDOW_UPDATE:
        if (length == 4 && stream == 0) {
            memcpy(&number_sent, payload, 4);
            c->send_window += ntohl(number_sent) & 0x7fffffff;
        }
        return skip();
    case GOAWAY:
        return broken((const char *)payload + 8, length > 8 ? length - 8 : 0);
    case DATA:
        c->received += (int64_t)length;
        if (c->received > WINDOW / 2) {
            window_update(c, (uint32_t)c->received);
            c->received = 0;
        }
        break;
    case HEADERS:
        if (!(flags & END_HEADERS)) return broken("headers in several frames", 25);
    }
    if (flags & PADDED && (type == DATA || type == HEADERS)) return broken("padding", 7);
    return stream_frame(c, type, flags, stream, payload, length);
}

const struct protocol grpc_etcd = {
    .name = "grpc-etcd",
    .independent = true,
    .open = grpc_open,
    .request = grpc_request,
    .next = grpc_next,
};
