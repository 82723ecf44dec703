/* The sequence's side of adaptive-mask/1, for porting: libzmq and POSIX sockets alone.
 *
 *     gcc -O2 -Wall -Wextra -std=c11 -o sequence_client sequence_client.c -lzmq -lm
 *     ./sequence_client --mask tcp://127.0.0.1:9004 --mrd 127.0.0.1:9002 [--keys FOLDER]
 *
 * Sends made-up readouts over MRD and takes its masks from the mask channel, as a scanner would.
 * What must be right: answer_mask(), decide() and the order of calls in measure_slice(). The
 * contract is docs/mask-channel.md; numbers in brackets are its sections. Little-endian hosts.
 */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
    MAX_MESSAGE = 64 * 1024, MAX_HEADER = 16 * 1024,
    N_KY = 64, CENTER = 32, BITMAP = (N_KY + 7) / 8,
    CALIBRATION_FIRST = 26, CALIBRATION_LAST = 37, N_CALIBRATION = 12, N_LINES = 24, GROUP = 2,
    N_SAMPLES = 64, N_COILS = 4, MAX_SLICES = 256, MAX_IDS = 4096,
    CONFIG_FILE = 1, HEADER = 3, CLOSE = 4, TEXT = 5, ACQUISITION = 1008, IMAGE = 1022
};
static const uint64_t FIRST_IN_SLICE = 1ull << 6, LAST_IN_SLICE = 1ull << 7,
                      MASK_CALIBRATION = 1ull << 56;

typedef struct { char id[37]; long slice, number; } Accepted;
typedef struct {
    void *context, *channel;
    int mrd, ready, n_slices, n_fallbacks, n_images;
    double deadline_ms, tr_ms, wait_s;
    uint32_t counter;
    char token[37];
    Accepted accepted[MAX_IDS];            /* every mask that was acked [7] */
    int n_accepted;
    long highest[MAX_SLICES];              /* sequence_no by slice */
    int has_mask[MAX_SLICES], applied[MAX_SLICES];
    char mask_id[MAX_SLICES][37], applied_id[MAX_SLICES][37];
    uint8_t inbox[MAX_SLICES][BITMAP];
} Sequence;

/* ---- small things -------------------------------------------------------------------------- */

static void fail(const char *what) {
    fprintf(stderr, "sequence_client: %s\n", what);
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void new_uuid(char out[37]) {
    uint8_t b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b) fail("no random numbers");
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    for (int i = 0, k = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out[k++] = '-';
        k += sprintf(out + k, "%02x", b[i]);
    }
}

static int bit(const uint8_t *bits, int k) { return bits[k >> 3] >> (k & 7) & 1; }
static void set_bit(uint8_t *bits, int k) { bits[k >> 3] |= (uint8_t)(1u << (k & 7)); }
static int is_calibration(int ky) { return ky >= CALIBRATION_FIRST && ky <= CALIBRATION_LAST; }

static void fallback_bitmap(uint8_t bits[BITMAP]) {
    memset(bits, 0, BITMAP);
    for (int ky = CALIBRATION_FIRST; ky <= CALIBRATION_LAST; ky++) set_bit(bits, ky);
    for (int ky = 2; ky < 26; ky += 4) set_bit(bits, ky);
    for (int ky = 40; ky < 64; ky += 4) set_bit(bits, ky);
}

/* ---- JSON: one pass that checks the syntax and keeps where each value stands ------------------ */

typedef struct { const char *at, *end; } Span;
typedef struct { char path[48]; Span value; } Member;
typedef struct { Member members[64]; int n; } Object;

static const char *skip_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end; p++) {
        if (*p == '\\') p++;
        else if (*p == '"') return p + 1;
        else if ((unsigned char)*p < 0x20) return NULL;
    }
    return NULL;
}

/* Returns the end of a value, NULL if it is none. Members of objects go into `out` by path. */
static const char *read_value(const char *p, const char *end, const char *path, int depth,
                              Object *out) {
    p = skip_space(p, end);
    if (p >= end || depth > 8) return NULL;
    if (*p == '"') return skip_string(p, end);
    if (*p == '{' || *p == '[') {
        char close = *p == '{' ? '}' : ']';
        int is_object = *p == '{';
        p = skip_space(p + 1, end);
        if (p < end && *p == close) return p + 1;
        while (p < end) {
            char inner[48] = "";
            if (is_object) {
                const char *key = p;
                if (*p != '"' || !(p = skip_string(p, end))) return NULL;
                snprintf(inner, sizeof inner, "%s%s%.*s", path, *path ? "." : "",
                         (int)(p - key - 2), key + 1);
                p = skip_space(p, end);
                if (p >= end || *p++ != ':') return NULL;
            }
            const char *start = skip_space(p, end);
            if (!(p = read_value(start, end, inner, depth + 1, out))) return NULL;
            if (is_object && out->n < 64) {
                Member *m = &out->members[out->n++];
                memcpy(m->path, inner, sizeof inner);
                m->value = (Span){start, p};
            }
            p = skip_space(p, end);
            if (p < end && *p == close) return p + 1;
            if (p >= end || *p++ != ',') return NULL;
            p = skip_space(p, end);
        }
        return NULL;
    }
    const char *start = p;
    while (p < end && !strchr(",]} \t\r\n", *p)) p++;
    size_t n = (size_t)(p - start);
    if ((n == 4 && (!memcmp(start, "true", 4) || !memcmp(start, "null", 4))) ||
        (n == 5 && !memcmp(start, "false", 5)))
        return p;
    char number[64], *stop;
    if (n == 0 || n >= sizeof number || !(*start == '-' || (*start >= '0' && *start <= '9')))
        return NULL;
    memcpy(number, start, n);
    number[n] = 0;
    return strtod(number, &stop), *stop ? NULL : p;
}

static const Span *find(const Object *object, const char *path) {
    for (int i = 0; i < object->n; i++)
        if (!strcmp(object->members[i].path, path)) return &object->members[i].value;
    return NULL;
}

/* A string without escapes of at most `size` - 1 bytes; 0 if it is not there or is none. */
static int text(const Object *object, const char *path, char *out, size_t size) {
    const Span *v = find(object, path);
    if (!v || v->end - v->at < 2 || *v->at != '"' || (size_t)(v->end - v->at - 2) >= size) return 0;
    size_t n = (size_t)(v->end - v->at - 2);
    memcpy(out, v->at + 1, n);
    out[n] = 0;
    return !strchr(out, '\\');
}

/* A whole number, also written 3.0; 0 if it is not there, is none or is out of bounds. */
static int whole(const Object *object, const char *path, long low, long high, long *out) {
    const Span *v = find(object, path);
    if (!v || !(*v->at == '-' || (*v->at >= '0' && *v->at <= '9'))) return 0;
    double value = strtod(v->at, NULL);
    if (value != floor(value) || value < (double)low || value > (double)high) return 0;
    *out = (long)value;
    return 1;
}

/* ---- the mask channel -------------------------------------------------------------------------- */

static void say(Sequence *s, const char *header, const void *payload, size_t n) {
    /* Nobody there: the scan goes on without [8]. All parts or none. */
    if (zmq_send(s->channel, "AMSK1", 5, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) return;
    zmq_send(s->channel, header, strlen(header), ZMQ_SNDMORE);
    zmq_send(s->channel, payload, n, 0);
}

static void say_hello(Sequence *s) { /* [4] */
    char header[1024];
    uint8_t payload[2 * BITMAP];
    int n = snprintf(header, sizeof header,
                     "{\"schema\":\"adaptive-mask/1\",\"kind\":\"hello\",\"role\":\"sequence\","
                     "\"scan_token\":\"%s\",\"ky_min\":0,\"ky_max\":%d,\"center\":%d,"
                     "\"n_lines\":%d,\"group_size\":%d,\"repetition\":\"first\","
                     "\"deadline_ms\":%g,\"scanner\":\"example in C\",\"calibration\":[",
                     s->token, N_KY - 1, CENTER, N_LINES, GROUP, s->deadline_ms);
    for (int ky = CALIBRATION_FIRST; ky <= CALIBRATION_LAST; ky++)
        n += snprintf(header + n, sizeof header - (size_t)n, "%d%s", ky,
                      ky == CALIBRATION_LAST ? "]}" : ",");
    memset(payload, 0, sizeof payload);
    for (int ky = 0; ky < N_KY; ky++) set_bit(payload, ky); /* all are acquirable */
    fallback_bitmap(payload + BITMAP);
    say(s, header, payload, sizeof payload);
}

static void drop(Sequence *s, const char *reason, const char *detail) {
    char header[512];
    snprintf(header, sizeof header,
             "{\"schema\":\"adaptive-mask/1\",\"kind\":\"error\",\"reason\":\"%s\","
             "\"detail\":\"%s\"}", reason, detail);
    say(s, header, "", 0);
}

static void say_nack(Sequence *s, const char *token, const char *id, const char *reason,
                     const char *detail) {
    char header[512];
    snprintf(header, sizeof header,
             "{\"schema\":\"adaptive-mask/1\",\"kind\":\"nack\",\"scan_token\":\"%s\","
             "\"message_id\":\"%s\",\"reason\":\"%s\",\"detail\":\"%s\"}",
             token, id, reason, detail);
    say(s, header, "", 0);
}

static void say_ack(Sequence *s, const char *id) {
    char header[256];
    snprintf(header, sizeof header,
             "{\"schema\":\"adaptive-mask/1\",\"kind\":\"ack\",\"scan_token\":\"%s\","
             "\"message_id\":\"%s\"}", s->token, id);
    say(s, header, "", 0);
}

/* Why these lines are no mask of this scan; NULL if they are [6]. */
static const char *check(const uint8_t *bits) {
    int n = 0, n_calibration = 0;
    for (int ky = 0; ky < N_KY; ky++) {
        n += bit(bits, ky);
        n_calibration += bit(bits, ky) && is_calibration(ky);
    }
    if (n_calibration != N_CALIBRATION) return "calibration missing";
    if ((n - N_CALIBRATION) % GROUP) return "group size";
    return n == N_LINES ? NULL : "budget";
}

/* Put a valid mask into the inbox and ack it, or say why not [6, 7]. 0 if it is malformed. */
static int answer_mask(Sequence *s, const Object *o, const uint8_t *payload, size_t size) {
    char id[37], token[65], ignored[801];
    long slice, repetition, number, ky_min, ky_max, n_lines, count = 0;
    if (!text(o, "message_id", id, sizeof id) || strlen(id) != 36 ||
        !text(o, "scan_token", token, sizeof token) || !text(o, "model", ignored, sizeof ignored) ||
        !find(o, "reason") || !whole(o, "scope.slice", 0, 65535, &slice) ||
        !whole(o, "scope.repetition", 0, 65535, &repetition) ||
        !whole(o, "sequence_no", 0, 4294967295, &number) ||
        !whole(o, "ky_min", 0, 65535, &ky_min) || !whole(o, "ky_max", 0, 65535, &ky_max) ||
        !whole(o, "n_lines", 1, 65536, &n_lines))
        return 0;
    long n = ky_max - ky_min + 1;
    if (n < 1 || (long)size != (n + 7) / 8 || (n % 8 && payload[size - 1] >> (n % 8))) return 0;
    for (long k = 0; k < n; k++) count += bit(payload, (int)k);
    if (count != n_lines) return 0;

    if (strcmp(token, s->token)) {
        say_nack(s, token, id, "foreign", "another scan's mask"); /* the worst that can happen [3] */
        return 1;
    }
    if (slice >= s->n_slices || repetition != 0) {
        say_nack(s, token, id, "invalid", "no such scope");
        return 1;
    }
    if (s->applied[slice]) {
        if (!strcmp(s->applied_id[slice], id)) say_ack(s, id); /* its ack was lost */
        else say_nack(s, token, id, "late", "being measured");
        return 1;
    }
    for (int i = 0; i < s->n_accepted; i++)
        if (!strcmp(s->accepted[i].id, id)) { /* the same message twice counts once */
            say_ack(s, id);
            return 1;
        }
    if (number <= s->highest[slice]) {
        say_nack(s, token, id, "stale", "an older sequence number");
        return 1;
    }
    const char *wrong = ky_min != 0 || ky_max != N_KY - 1 ? "not the window of the hello"
                                                          : check(payload);
    if (!wrong && s->n_accepted == MAX_IDS) wrong = "too many masks";
    if (wrong) {
        say_nack(s, token, id, "invalid", wrong);
        return 1;
    }
    memcpy(s->accepted[s->n_accepted++].id, id, sizeof id);
    memcpy(s->mask_id[slice], id, sizeof id);
    memcpy(s->inbox[slice], payload, BITMAP);
    s->highest[slice] = number;
    s->has_mask[slice] = 1;
    say_ack(s, id);
    return 1;
}

static void receive(Sequence *s, zmq_msg_t *parts, int n_parts, size_t total) {
    char schema[32], kind[16], reason[32];
    Object object = {.n = 0};
    if (total > MAX_MESSAGE || (n_parts > 1 && zmq_msg_size(&parts[1]) > MAX_HEADER)) {
        drop(s, "oversized", "over 64 KiB, or a header over 16 KiB");
        return;
    }
    if (n_parts != 3 || zmq_msg_size(&parts[0]) != 5 || memcmp(zmq_msg_data(&parts[0]), "AMSK1", 5)) {
        drop(s, "malformed", "not three frames, or not AMSK1");
        return;
    }
    /* A copy that ends in a NUL, because strtod needs an end. */
    size_t n = zmq_msg_size(&parts[1]);
    char *json = malloc(n + 1);
    if (!json) fail("no memory");
    memcpy(json, zmq_msg_data(&parts[1]), n);
    json[n] = 0;
    const char *end = n && *skip_space(json, json + n) == '{'
                          ? read_value(json, json + n, "", 0, &object) : NULL;
    int good = end && skip_space(end, json + n) == json + n &&
               text(&object, "schema", schema, sizeof schema) &&
               !strcmp(schema, "adaptive-mask/1") && text(&object, "kind", kind, sizeof kind);
    if (good && !strcmp(kind, "mask")) {
        good = answer_mask(s, &object, zmq_msg_data(&parts[2]), zmq_msg_size(&parts[2]));
    } else if (good && !strcmp(kind, "welcome")) {
        const Span *ready = find(&object, "ready");
        good = ready != NULL;
        s->ready = good && *ready->at == 't';
    } else if (good && !strcmp(kind, "error") && text(&object, "reason", reason, sizeof reason) &&
               !strcmp(reason, "no-hello")) {
        say_hello(s); /* the binder is a new one, or forgot us */
    } else if (good && (!strcmp(kind, "nack") || !strcmp(kind, "error") || !strcmp(kind, "bye"))) {
        s->ready = 0; /* no mask will come: the fallback serves [8] */
    } else if (good) {
        good = !strcmp(kind, "heartbeat");
    }
    if (!good) drop(s, "malformed", "not a message of adaptive-mask/1 to a sequence");
    free(json);
}

/* Empty the inbox without waiting. */
static void drain(Sequence *s) {
    for (;;) {
        zmq_msg_t parts[4], *part; /* all parts after the third share a place: it is malformed */
        int n = 0, more = 1;
        size_t total = 0;
        for (int i = 0; i < 4; i++) zmq_msg_init(&parts[i]);
        while (more) {
            part = &parts[n < 3 ? n : 3];
            if (zmq_msg_recv(part, s->channel, n == 0 ? ZMQ_DONTWAIT : 0) < 0) break;
            more = zmq_msg_more(part);
            total += zmq_msg_size(part);
            n++;
        }
        if (n == 0) return; /* a message's parts arrive together: only the first can be missing */
        receive(s, parts, n, total);
        for (int i = 0; i < 4; i++) zmq_msg_close(&parts[i]);
    }
}

/* Stands for whatever a sequence does meanwhile. */
static void wait_until(Sequence *s, double instant, int or_ready) {
    double left;
    while ((left = instant - now_s()) > 0 && !(or_ready && s->ready)) {
        zmq_pollitem_t item = {s->channel, 0, ZMQ_POLLIN, 0};
        zmq_poll(&item, 1, left > 0.02 ? 20 : 1);
        drain(s);
    }
}

/* ---- the MRD stream ------------------------------------------------------------------------------ */

static void put(Sequence *s, const void *data, size_t n) {
    for (const char *p = data; n > 0;) {
        ssize_t sent = send(s->mrd, p, n, MSG_NOSIGNAL);
        if (sent <= 0) fail("the host closed the MRD connection");
        p += sent;
        n -= (size_t)sent;
    }
}

static void get(Sequence *s, void *data, size_t n) {
    for (char *p = data; n > 0;) {
        ssize_t got = recv(s->mrd, p, n, 0);
        if (got <= 0) fail("the host closed the MRD connection");
        p += got;
        n -= (size_t)got;
    }
}

static void skip(Sequence *s, uint64_t n) {
    char rest[4096];
    for (; n > 0; n -= n < sizeof rest ? n : sizeof rest) get(s, rest, n < sizeof rest ? n : sizeof rest);
}

static void put_header(Sequence *s, const char *config) {
    char name[1024] = "", xml[4096], space[256];
    uint16_t id = CONFIG_FILE;
    strncpy(name, config, sizeof name - 1);
    put(s, &id, 2);
    put(s, name, sizeof name);
    snprintf(space, sizeof space,
             "<matrixSize><x>%d</x><y>%d</y><z>1</z></matrixSize>"
             "<fieldOfView_mm><x>%d</x><y>%d</y><z>5</z></fieldOfView_mm>",
             N_SAMPLES, N_KY, N_SAMPLES, N_KY);
    uint32_t n = (uint32_t)snprintf(
        xml, sizeof xml,
        "<?xml version=\"1.0\"?><ismrmrdHeader xmlns=\"http://www.ismrm.org/ISMRMRD\">"
        "<acquisitionSystemInformation><receiverChannels>%d</receiverChannels>"
        "</acquisitionSystemInformation><experimentalConditions><H1resonanceFrequency_Hz>123200000"
        "</H1resonanceFrequency_Hz></experimentalConditions><encoding><encodedSpace>%s"
        "</encodedSpace><reconSpace>%s</reconSpace><encodingLimits><kspace_encoding_step_1>"
        "<minimum>0</minimum><maximum>%d</maximum><center>%d</center></kspace_encoding_step_1>"
        "<slice><minimum>0</minimum><maximum>%d</maximum><center>0</center></slice>"
        "</encodingLimits><trajectory>cartesian</trajectory></encoding><userParameters>"
        "<userParameterString><name>mnet_scan_token</name><value>%s</value></userParameterString>"
        "</userParameters></ismrmrdHeader>",
        N_COILS, space, space, N_KY - 1, CENTER, s->n_slices - 1, s->token);
    id = HEADER;
    put(s, &id, 2);
    put(s, &n, 4);
    put(s, xml, n);
}

static double sinc(double x) { return x == 0 ? 1 : sin(x) / x; }

/* One readout of a small square object; the numbers do not matter to the contract. */
static void put_line(Sequence *s, int slice, int ky, uint64_t flags) {
    uint8_t head[2 + 340] = {0};
    float samples[N_COILS][N_SAMPLES][2];
    uint16_t id = ACQUISITION, version = 1, n_samples = N_SAMPLES, n_coils = N_COILS,
             center = N_SAMPLES / 2, step = (uint16_t)ky, number = (uint16_t)slice;
    uint32_t uid = 1;
    float dwell = 5, z = 6.0f * (float)slice, one = 1;
    s->counter++;
    memcpy(head, &id, 2);
    uint8_t *h = head + 2; /* offsets of the ISMRMRD acquisition header, packed */
    memcpy(h, &version, 2);
    memcpy(h + 2, &flags, 8);
    memcpy(h + 10, &uid, 4);
    memcpy(h + 14, &s->counter, 4);
    memcpy(h + 34, &n_samples, 2);
    memcpy(h + 36, &n_coils, 2);
    memcpy(h + 38, &n_coils, 2);
    memcpy(h + 172, &center, 2);
    memcpy(h + 178, &dwell, 4);
    memcpy(h + 190, &z, 4);
    memcpy(h + 194, &one, 4); /* read, phase and slice directions: x, y, z */
    memcpy(h + 210, &one, 4);
    memcpy(h + 226, &one, 4);
    memcpy(h + 242, &step, 2);
    memcpy(h + 248, &number, 2);
    for (int coil = 0; coil < N_COILS; coil++)
        for (int i = 0; i < N_SAMPLES; i++) {
            double kx = i - N_SAMPLES / 2, angle = 0.7 * coil + 0.05 * coil * kx;
            double value = sinc(0.3 * kx) * sinc(0.4 * (ky - CENTER)) * (1 + slice / 10.0);
            samples[coil][i][0] = (float)(value * cos(angle));
            samples[coil][i][1] = (float)(value * sin(angle));
        }
    put(s, head, sizeof head);
    put(s, samples, sizeof samples);
    wait_until(s, now_s() + s->tr_ms / 1000, 0);
    drain(s);
}

/* Read images to the host's CLOSE, and go on answering late masks meanwhile. */
static int finish(Sequence *s) {
    int failed = 0;
    double until = now_s() + 120;
    while (now_s() < until) {
        struct pollfd item = {s->mrd, POLLIN, 0};
        drain(s);
        if (poll(&item, 1, 50) <= 0) continue;
        uint16_t id;
        get(s, &id, 2);
        if (id == CLOSE) return failed;
        if (id == TEXT) {
            uint32_t n;
            char line[512] = "";
            get(s, &n, 4);
            get(s, line, n < sizeof line ? n : sizeof line - 1);
            if (n >= sizeof line) skip(s, n - (sizeof line - 1));
            failed |= strstr(line, "ERROR") != NULL;
            fprintf(stderr, "host: %s\n", line);
        } else if (id == IMAGE) {
            static const int bytes[9] = {0, 2, 2, 4, 4, 4, 8, 8, 16};
            uint8_t head[198];
            uint16_t kind, shape[3], channels;
            uint64_t n;
            get(s, head, sizeof head);
            memcpy(&kind, head + 2, 2);
            memcpy(shape, head + 16, 6);
            memcpy(&channels, head + 34, 2);
            get(s, &n, 8);
            skip(s, n);
            if (kind > 8) fail("an image of unknown type");
            skip(s, (uint64_t)shape[0] * shape[1] * shape[2] * channels * (uint64_t)bytes[kind]);
            s->n_images++;
        } else {
            fail("a message that was not expected");
        }
    }
    fail("the host did not finish");
    return 1;
}

/* ---- the sequence -------------------------------------------------------------------------------- */

/* The one look into the inbox, `deadline_ms` after the last calibration line [5]. */
static int decide(Sequence *s, int slice, uint8_t bits[BITMAP]) {
    wait_until(s, now_s() + s->deadline_ms / 1000, 0);
    drain(s);
    if (s->has_mask[slice]) {
        memcpy(bits, s->inbox[slice], BITMAP);
        return 1;
    }
    fallback_bitmap(bits);
    s->n_fallbacks++;
    return 0;
}

/* Say what is measured, before the first adaptive line. */
static void announce(Sequence *s, int slice, int has_mask, const uint8_t bits[BITMAP]) {
    char header[512], id[40] = "null";
    if (has_mask) {
        memcpy(s->applied_id[slice], s->mask_id[slice], sizeof s->mask_id[slice]);
        snprintf(id, sizeof id, "\"%s\"", s->mask_id[slice]);
    }
    s->applied[slice] = 1;
    snprintf(header, sizeof header,
             "{\"schema\":\"adaptive-mask/1\",\"kind\":\"applied\",\"scan_token\":\"%s\","
             "\"message_id\":%s,\"scope\":{\"slice\":%d,\"repetition\":0},\"ky_min\":0,"
             "\"ky_max\":%d,\"n_lines\":%d,\"fallback\":%s,\"reason\":\"%s\"}",
             s->token, id, slice, N_KY - 1, N_LINES, has_mask ? "false" : "true",
             has_mask ? "mask" : "no mask within the deadline");
    say(s, header, bits, BITMAP);
}

static void measure_slice(Sequence *s, int slice) {
    uint8_t bits[BITMAP];
    say_hello(s); /* again: it tells a host that lost our connection that we are back [4] */
    for (int ky = CALIBRATION_FIRST; ky <= CALIBRATION_LAST; ky++)
        put_line(s, slice, ky, MASK_CALIBRATION | (ky == CALIBRATION_FIRST ? FIRST_IN_SLICE : 0));
    announce(s, slice, decide(s, slice, bits), bits);
    for (int ky = 0, left = N_LINES - N_CALIBRATION; ky < N_KY; ky++)
        if (bit(bits, ky) && !is_calibration(ky))
            put_line(s, slice, ky, --left == 0 ? LAST_IN_SLICE : 0);
}

static void read_key(const char *folder, const char *name, char key[41]) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%40s", key) != 1 || strlen(key) != 40) fail("cannot read the keys");
    fclose(file);
}

static void open_channel(Sequence *s, const char *endpoint, const char *keys) {
    int linger = 500;
    int64_t limit = MAX_MESSAGE;
    s->context = zmq_ctx_new();
    s->channel = zmq_socket(s->context, ZMQ_DEALER);
    zmq_setsockopt(s->channel, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s->channel, ZMQ_MAXMSGSIZE, &limit, sizeof limit);
    /* by which we are the same to the host when a connection breaks and comes back [1]; the token is
       new at every start and random, and does not begin with a zero byte */
    zmq_setsockopt(s->channel, ZMQ_ROUTING_ID, s->token, strlen(s->token));
    if (keys) { /* [9] */
        char secret[41], public[41], server[41];
        read_key(keys, "client.key", secret);
        read_key(keys, "server.pub", server);
        if (zmq_curve_public(public, secret) ||
            zmq_setsockopt(s->channel, ZMQ_CURVE_SECRETKEY, secret, sizeof secret) ||
            zmq_setsockopt(s->channel, ZMQ_CURVE_PUBLICKEY, public, sizeof public) ||
            zmq_setsockopt(s->channel, ZMQ_CURVE_SERVERKEY, server, sizeof server))
            fail("these keys cannot be used, or libzmq has no CURVE");
    }
    if (zmq_connect(s->channel, endpoint)) fail("cannot connect to the mask channel's endpoint");
}

static void open_mrd(Sequence *s, const char *address) {
    char host[256];
    const char *colon = strrchr(address, ':');
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    if (!colon || (size_t)(colon - address) >= sizeof host) fail("--mrd: expected HOST:PORT");
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    if (getaddrinfo(host, colon + 1, &hints, &found)) fail("--mrd: no such host");
    s->mrd = socket(found->ai_family, found->ai_socktype, 0);
    int on = 1;
    setsockopt(s->mrd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->mrd, found->ai_addr, found->ai_addrlen)) fail("cannot connect to the MRD host");
    freeaddrinfo(found);
}

static int scan(Sequence *s, const char *mask, const char *mrd, const char *keys,
                const char *config) {
    char header[256];
    new_uuid(s->token); /* a new one for every start, also after a crash [3] */
    for (int i = 0; i < MAX_SLICES; i++) s->highest[i] = -1;
    open_channel(s, mask, keys);
    open_mrd(s, mrd);
    say_hello(s);
    put_header(s, config);
    wait_until(s, now_s() + s->wait_s, 1); /* before the scan waiting is allowed; then it runs anyhow */
    for (int slice = 0; slice < s->n_slices; slice++) measure_slice(s, slice);
    uint16_t id = CLOSE;
    put(s, &id, 2);
    int status = finish(s);
    snprintf(header, sizeof header,
             "{\"schema\":\"adaptive-mask/1\",\"kind\":\"bye\",\"scan_token\":\"%s\"}", s->token);
    say(s, header, "", 0);
    zmq_close(s->channel);
    zmq_ctx_term(s->context);
    close(s->mrd);
    printf("%d slices, %d on the fallback, %d images\n", s->n_slices, s->n_fallbacks, s->n_images);
    return status;
}

int main(int argc, char **argv) {
    const char *mask = "tcp://127.0.0.1:9004", *mrd = "127.0.0.1:9002", *keys = NULL,
               *config = "adaptive_modl.xml";
    int n_slices = 14, n_scans = 1, status = 0;
    double deadline_ms = 500, tr_ms = 2, wait_s = 10;
    const char *usage = "options: --mask ENDPOINT --mrd HOST:PORT --keys FOLDER --config NAME "
                        "--slices N --scans N --deadline-ms MS --tr-ms MS --wait-s S";
    if (argc % 2 == 0) fail(usage); /* also --help */
    for (int i = 1; i < argc; i += 2) {
        if (!strcmp(argv[i], "--mask")) mask = argv[i + 1];
        else if (!strcmp(argv[i], "--mrd")) mrd = argv[i + 1];
        else if (!strcmp(argv[i], "--keys")) keys = argv[i + 1];
        else if (!strcmp(argv[i], "--config")) config = argv[i + 1];
        else if (!strcmp(argv[i], "--slices")) n_slices = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--scans")) n_scans = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--deadline-ms")) deadline_ms = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--tr-ms")) tr_ms = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--wait-s")) wait_s = atof(argv[i + 1]);
        else fail(usage);
    }
    if (n_slices < 1 || n_slices > MAX_SLICES) fail("--slices: expected 1 to 256");
    for (int i = 0; i < n_scans; i++) {
        Sequence *s = calloc(1, sizeof *s);
        if (!s) fail("no memory");
        s->n_slices = n_slices;
        s->deadline_ms = deadline_ms;
        s->tr_ms = tr_ms;
        s->wait_s = wait_s;
        status |= scan(s, mask, mrd, keys, config);
        free(s);
    }
    return status;
}
