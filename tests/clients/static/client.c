/* Calls an OpenAI-like provider by OpenSSL 1.1.1 or 3.x, as a program that is linked to it statically or
 * not, and prints what it saw of each call as a line of JSON.
 *
 *     client PORT [option…]
 *
 * The certificate of SSL_CERT_FILE is trusted. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "seccomp.h"

static struct {
    int port;
    int calls;       /* on each connection */
    int connections; /* one after the other */
    int bytes;       /* of the prompt */
    int ex;          /* SSL_write_ex and SSL_read_ex */
    int nonblocking; /* with a small buffer of the socket, and writes that must be repeated */
    int partial;     /* SSL_MODE_ENABLE_PARTIAL_WRITE */
    int peek;        /* before every read */
    int stream;
    int no_shutdown; /* free connections without a close_notify */
    int leave_after; /* leave a stream after so many reads */
    int strict;      /* kill the process for every system call that this program does not need */
    int forbidden;   /* make a system call that is not needed */
    int wait;        /* print "waiting" and wait for a line, with the first connection open */
    const char *behaviour;
} options = {.calls = 1, .connections = 1, .behaviour = ""};

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* What was freed last is given out first, so that connections get the addresses of earlier ones. */
struct block {
    size_t size;
    struct block *next;
};

static struct block *freed;

static void *allocate(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    for (struct block **at = &freed; *at != NULL; at = &(*at)->next)
        if ((*at)->size == size) {
            struct block *block = *at;
            *at = block->next;
            return block + 1;
        }
    struct block *block = malloc(sizeof *block + size);
    if (block == NULL)
        return NULL;
    block->size = size;
    return block + 1;
}

static void release(void *address, const char *file, int line)
{
    (void)file, (void)line;
    if (address == NULL)
        return;
    struct block *block = (struct block *)address - 1;
    block->next = freed;
    freed = block;
}

static void *reallocate(void *address, size_t size, const char *file, int line)
{
    void *other = allocate(size, file, line);
    if (address != NULL && other != NULL) {
        size_t old = ((struct block *)address - 1)->size;
        memcpy(other, address, old < size ? old : size);
        release(address, file, line);
    }
    return other;
}

static void wait_for(SSL *ssl, int result)
{
    struct pollfd poll_fd = {.fd = SSL_get_fd(ssl)};
    switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ:
        poll_fd.events = POLLIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        poll_fd.events = POLLOUT;
        break;
    default:
        fail("TLS");
    }
    if (poll(&poll_fd, 1, 30000) != 1)
        fail("poll");
}

static void send_all(SSL *ssl, const char *bytes, size_t length)
{
    while (length > 0) {
        size_t written = 0;
        int result;
        if (options.ex) {
            result = SSL_write_ex(ssl, bytes, length, &written);
        } else {
            result = SSL_write(ssl, bytes, (int)length);
            written = result > 0 ? (size_t)result : 0;
        }
        if (result <= 0) {
            wait_for(ssl, result);
            continue;
        }
        bytes += written;
        length -= written;
    }
}

/* Returns 0 at the end of the connection, however it comes. */
static size_t receive(SSL *ssl, char *bytes, size_t room)
{
    for (;;) {
        size_t got = 0;
        int result;
        if (options.peek) {
            char part[64];
            SSL_peek(ssl, part, sizeof part);
        }
        if (options.ex) {
            result = SSL_read_ex(ssl, bytes, room, &got);
        } else {
            result = SSL_read(ssl, bytes, (int)room);
            got = result > 0 ? (size_t)result : 0;
        }
        if (result > 0)
            return got;
        int error = SSL_get_error(ssl, result);
        if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
            ERR_clear_error();
            return 0;
        }
        wait_for(ssl, result);
    }
}

static int ends_with(const char *text, size_t length, const char *end)
{
    size_t size = strlen(end);
    return length >= size && memcmp(text + length - size, end, size) == 0;
}

/* Reads an answer, to the end that its framing says; returns the length of the head, or 0 if it ends early. */
static int read_answer(SSL *ssl, char *answer, size_t room, size_t *length)
{
    int reads = 0;
    *length = 0;
    for (;;) {
        size_t got = receive(ssl, answer + *length, room - 1 - *length);
        if (got == 0)
            return 0;
        *length += got;
        answer[*length] = 0;
        if (options.leave_after > 0 && ++reads >= options.leave_after)
            return 1;
        char *end = strstr(answer, "\r\n\r\n");
        if (end == NULL)
            continue;
        char *field = strcasestr(answer, "\r\ncontent-length:");
        if (field != NULL && field < end) {
            if (*length >= (size_t)(end + 4 - answer) + strtoul(field + 17, NULL, 10))
                return 1;
        } else if (ends_with(answer, *length, "\r\n0\r\n\r\n")) {
            return 1;
        }
    }
}

static void call(SSL *ssl, int connection, int number)
{
    static char answer[16 << 20];
    long started = now();
    char *body = malloc((size_t)options.bytes + 512);
    char *request = malloc((size_t)options.bytes + 1536);
    if (body == NULL || request == NULL)
        fail("malloc");
    char *prompt = malloc((size_t)options.bytes + 1);
    memset(prompt, 'x', (size_t)options.bytes);
    prompt[options.bytes] = 0;
    int size = sprintf(body,
                       "{\"model\":\"gpt-4o\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"Hi %s\"}]}",
                       options.stream ? "true,\"stream_options\":{\"include_usage\":true}" : "false", prompt);
    int length = sprintf(request,
                         "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         "X-Test-Case: case/%d/%d\r\nX-Test-Behaviour: %s\r\nContent-Length: %d\r\n\r\n%s",
                         connection, number, options.behaviour, size, body);
    send_all(ssl, request, (size_t)length);
    size_t got;
    int whole = read_answer(ssl, answer, sizeof answer, &got);
    printf("{\"case\":\"case/%d/%d\",\"elapsed_ns\":%ld,\"bytes\":%zu,\"whole\":%s,\"ssl\":\"%p\"}\n", connection, number, now() - started, got, whole ? "true" : "false", (void *)ssl);
    fflush(stdout);
    free(prompt);
    free(request);
    free(body);
}

static SSL *open_connection(SSL_CTX *context)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1, room = 4096;
    if (options.nonblocking)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    SSL *ssl = SSL_new(context);
    SSL_set_tlsext_host_name(ssl, "localhost");
    SSL_set1_host(ssl, "localhost");
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1)
        fail("SSL_connect");
    if (options.nonblocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return ssl;
}

static const struct {
    const char *name;
    int *value;
} FLAGS[] = {
    {"--ex", &options.ex},
    {"--forbidden", &options.forbidden},
    {"--no-shutdown", &options.no_shutdown},
    {"--nonblocking", &options.nonblocking},
    {"--partial", &options.partial},
    {"--peek", &options.peek},
    {"--stream", &options.stream},
    {"--strict", &options.strict},
    {"--wait-for-stdin", &options.wait},
}, NUMBERS[] = {
    {"--bytes", &options.bytes},
    {"--calls", &options.calls},
    {"--connections", &options.connections},
    {"--leave-after", &options.leave_after},
};

static void parse(int count, char **words)
{
    if (count < 2) {
        fprintf(stderr, "usage: client PORT [option…]\n");
        exit(2);
    }
    options.port = atoi(words[1]);
    for (int at = 2; at < count; at++) {
        int known = 0;
        for (size_t flag = 0; flag < sizeof FLAGS / sizeof *FLAGS; flag++)
            if (strcmp(words[at], FLAGS[flag].name) == 0)
                known = *FLAGS[flag].value = 1;
        for (size_t number = 0; number < sizeof NUMBERS / sizeof *NUMBERS && at + 1 < count; number++)
            if (strcmp(words[at], NUMBERS[number].name) == 0) {
                *NUMBERS[number].value = atoi(words[++at]);
                known = 1;
                break;
            }
        if (!known && at + 1 < count && strcmp(words[at], "--behaviour") == 0)
            options.behaviour = words[++at], known = 1;
        if (!known) {
            fprintf(stderr, "unknown option %s\n", words[at]);
            exit(2);
        }
    }
}

int main(int count, char **words)
{
    parse(count, words);
    if (CRYPTO_set_mem_functions(allocate, reallocate, release) != 1)
        fail("memory");
    printf("{\"library\":\"%s\"}\n", OpenSSL_version(OPENSSL_VERSION));
    fflush(stdout);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_set_default_verify_paths(context) != 1)
        fail("the trusted certificates");
    if (options.partial)
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    for (int connection = 0; connection < options.connections; connection++) {
        SSL *ssl = open_connection(context);
        if (options.strict && connection == 0)
            allow_only_known_calls();
        if (options.forbidden)
            getppid();
        if (options.wait && connection == 0) {
            char line[16];
            printf("waiting\n");
            fflush(stdout);
            if (read(0, line, sizeof line) < 0)
                fail("standard input");
        }
        for (int number = 0; number < options.calls; number++)
            call(ssl, connection, number);
        if (!options.no_shutdown)
            SSL_shutdown(ssl);
        int fd = SSL_get_fd(ssl);
        SSL_free(ssl);
        close(fd);
    }
    return 0;
}
