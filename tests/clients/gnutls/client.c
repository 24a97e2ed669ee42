/* Calls an OpenAI-like provider by GnuTLS and prints what it saw of each call as a line of JSON.
 *
 *     client PORT [option…]
 *
 * The certificate of SSL_CERT_FILE is trusted. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct {
    int port;
    int calls;       /* on each connection */
    int connections; /* one after the other */
    int bytes;       /* of the prompt */
    int nonblocking; /* with a small buffer of the socket, and writes that must be repeated */
    int resume;      /* repeat them with NULL and 0 */
    int cork;        /* gnutls_record_cork, small writes, gnutls_record_uncork */
    int stream;
    int no_bye; /* end connections without a close_notify */
    const char *behaviour;
} options = {.calls = 1, .connections = 1, .behaviour = ""};

static void check(ssize_t result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, gnutls_strerror((int)result));
        exit(1);
    }
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void wait_for(gnutls_session_t session)
{
    int writes = gnutls_record_get_direction(session);
    struct pollfd poll_fd = {.fd = gnutls_transport_get_int(session), .events = writes ? POLLOUT : POLLIN};
    if (poll(&poll_fd, 1, 30000) != 1)
        exit(1);
}

static int must_wait(ssize_t result)
{
    return result == GNUTLS_E_AGAIN || result == GNUTLS_E_INTERRUPTED;
}

static void send_all(gnutls_session_t session, const char *bytes, size_t length)
{
    if (options.cork) {
        gnutls_record_cork(session);
        for (size_t at = 0; at < length; at += 100)
            check(gnutls_record_send(session, bytes + at, length - at < 100 ? length - at : 100), "send");
        check(gnutls_record_uncork(session, GNUTLS_RECORD_WAIT), "uncork");
        return;
    }
    while (length > 0) {
        ssize_t written = gnutls_record_send(session, bytes, length);
        while (must_wait(written)) {
            wait_for(session);
            written = options.resume ? gnutls_record_send(session, NULL, 0)
                                     : gnutls_record_send(session, bytes, length);
        }
        check(written, "send");
        bytes += written;
        length -= (size_t)written;
    }
}

/* Returns 0 at the end of the connection, however it comes. */
static size_t receive(gnutls_session_t session, char *bytes, size_t room)
{
    ssize_t got = gnutls_record_recv(session, bytes, room);
    while (must_wait(got)) {
        wait_for(session);
        got = gnutls_record_recv(session, bytes, room);
    }
    return got > 0 ? (size_t)got : 0;
}

static int read_answer(gnutls_session_t session, char *answer, size_t room, size_t *length)
{
    *length = 0;
    for (;;) {
        size_t got = receive(session, answer + *length, room - 1 - *length);
        if (got == 0)
            return 0;
        *length += got;
        answer[*length] = 0;
        char *end = strstr(answer, "\r\n\r\n");
        if (end == NULL)
            continue;
        char *field = strcasestr(answer, "\r\ncontent-length:");
        if (field != NULL && field < end) {
            if (*length >= (size_t)(end + 4 - answer) + strtoul(field + 17, NULL, 10))
                return 1;
        } else if (*length >= 7 && memcmp(answer + *length - 7, "\r\n0\r\n\r\n", 7) == 0) {
            return 1;
        }
    }
}

static void call(gnutls_session_t session, int connection, int number)
{
    static char answer[16 << 20];
    long started = now();
    char *prompt = malloc((size_t)options.bytes + 1);
    char *body = malloc((size_t)options.bytes + 512);
    char *request = malloc((size_t)options.bytes + 1536);
    memset(prompt, 'x', (size_t)options.bytes);
    prompt[options.bytes] = 0;
    int size = sprintf(body,
                       "{\"model\":\"gpt-4o\",\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"Hi %s\"}]}",
                       options.stream ? "true,\"stream_options\":{\"include_usage\":true}" : "false", prompt);
    int length = sprintf(request,
                         "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         "X-Test-Case: case/%d/%d\r\nX-Test-Behaviour: %s\r\nContent-Length: %d\r\n\r\n%s",
                         connection, number, options.behaviour, size, body);
    send_all(session, request, (size_t)length);
    size_t got;
    int whole = read_answer(session, answer, sizeof answer, &got);
    printf("{\"case\":\"case/%d/%d\",\"elapsed_ns\":%ld,\"bytes\":%zu,\"whole\":%s}\n", connection, number,
           now() - started, got, whole ? "true" : "false");
    free(prompt);
    free(body);
    free(request);
}

static int connect_to_provider(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int room = 4096;
    if (options.nonblocking)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static gnutls_session_t open_session(gnutls_certificate_credentials_t credentials, int fd)
{
    gnutls_session_t session;
    check(gnutls_init(&session, GNUTLS_CLIENT), "init");
    check(gnutls_set_default_priority(session), "priority");
    check(gnutls_server_name_set(session, GNUTLS_NAME_DNS, "localhost", 9), "server name");
    check(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials), "credentials");
    gnutls_session_set_verify_cert(session, "localhost", 0);
    gnutls_transport_set_int(session, fd);
    check(gnutls_handshake(session), "handshake");
    if (options.nonblocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return session;
}

static int flag(const char *word)
{
    static const struct {
        const char *name;
        int *value;
    } FLAGS[] = {
        {"--cork", &options.cork},     {"--no-bye", &options.no_bye}, {"--nonblocking", &options.nonblocking},
        {"--resume", &options.resume}, {"--stream", &options.stream},
    };
    for (size_t at = 0; at < sizeof FLAGS / sizeof *FLAGS; at++)
        if (strcmp(word, FLAGS[at].name) == 0)
            return *FLAGS[at].value = 1;
    return 0;
}

int main(int count, char **words)
{
    if (count < 2)
        return 2;
    options.port = atoi(words[1]);
    for (int at = 2; at < count; at++) {
        const char *value = at + 1 < count ? words[at + 1] : "";
        if (flag(words[at]))
            continue;
        else if (strcmp(words[at], "--behaviour") == 0)
            options.behaviour = value;
        else if (strcmp(words[at], "--bytes") == 0)
            options.bytes = atoi(value);
        else if (strcmp(words[at], "--calls") == 0)
            options.calls = atoi(value);
        else if (strcmp(words[at], "--connections") == 0)
            options.connections = atoi(value);
        else
            return 2;
        at++;
    }
    gnutls_certificate_credentials_t credentials;
    check(gnutls_certificate_allocate_credentials(&credentials), "credentials");
    check(gnutls_certificate_set_x509_trust_file(credentials, getenv("SSL_CERT_FILE"), GNUTLS_X509_FMT_PEM),
          "the trusted certificate");
    for (int connection = 0; connection < options.connections; connection++) {
        int fd = connect_to_provider();
        gnutls_session_t session = open_session(credentials, fd);
        for (int number = 0; number < options.calls; number++)
            call(session, connection, number);
        if (!options.no_bye)
            gnutls_bye(session, GNUTLS_SHUT_WR);
        gnutls_deinit(session);
        close(fd);
    }
    gnutls_certificate_free_credentials(credentials);
    return 0;
}
