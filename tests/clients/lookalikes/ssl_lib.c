// What the compiler makes of BoringSSL's ssl/ssl_lib.cc as far as observer looks at it: two functions and
// the errors that they raise. The tests change them one by one.

#ifndef NAME
#define NAME "vendor/boringssl/ssl/ssl_lib.cc"
#endif
#ifndef LIBRARY
#define LIBRARY 16
#endif
#ifndef READ_LINE
#define READ_LINE 1000
#endif
#ifndef FIRST
#define FIRST 66
#endif
#ifndef SECOND
#define SECOND 226
#endif
#ifndef THIRD
#define THIRD 215
#endif
#ifndef FOURTH
#define FOURTH 111
#endif
#ifndef LAST_LINE
#define LAST_LINE 1046
#endif
#ifdef COLD
#define RAISES __attribute__((cold))
#else
#define RAISES
#endif

RAISES void ERR_put_error(int library, int unused, int reason, const char *file, unsigned line);

#define RAISE(reason, line) ERR_put_error(LIBRARY, 0, reason, NAME, line)

struct ssl {
  int quic;
  int (*handshake)(struct ssl *);
  char *data;
};

#define READ(name)                                                  \
  __attribute__((noinline)) int name(struct ssl *s, void *b, int n) \
  {                                                                 \
    if (s->quic) {                                                  \
      RAISE(66, READ_LINE);                                         \
      return -1;                                                    \
    }                                                               \
    for (int i = 0; i < n; i++)                                     \
      ((char *)b)[i] = s->data[i];                                  \
    return n;                                                       \
  }

#define WRITE(name)                                                       \
  __attribute__((noinline)) int name(struct ssl *s, const void *b, int n) \
  {                                                                       \
    if (s->quic) {                                                        \
      RAISE(FIRST, 1021);                                                 \
      return -1;                                                          \
    }                                                                     \
    if (!s->handshake) {                                                  \
      RAISE(SECOND, 1027);                                                \
      return -1;                                                          \
    }                                                                     \
    int result = s->handshake(s);                                         \
    if (result < 0)                                                       \
      return result;                                                      \
    if (result == 0) {                                                    \
      RAISE(THIRD, 1040);                                                 \
      return -1;                                                          \
    }                                                                     \
    if (n < 0) {                                                          \
      RAISE(FOURTH, LAST_LINE);                                           \
      return -1;                                                          \
    }                                                                     \
    for (int i = 0; i < n; i++)                                           \
      s->data[i] = ((const char *)b)[i];                                  \
    return n;                                                             \
  }

READ(plain_read)
WRITE(plain_write)
#ifdef SECOND_READ
READ(other_read)
#endif
#ifdef SECOND_WRITE
WRITE(other_write)
#endif

int main(int count, char **arguments)
{
  char buffer[16];
  struct ssl ssl = {count, 0, arguments[0]};
  int sum = plain_read(&ssl, buffer, count) + plain_write(&ssl, buffer, count);
#ifdef SECOND_READ
  sum += other_read(&ssl, buffer, count);
#endif
#ifdef SECOND_WRITE
  sum += other_write(&ssl, buffer, count);
#endif
  return sum;
}
