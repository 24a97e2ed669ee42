// Where the errors go.

int last[4];
const char *last_file;

void ERR_put_error(int library, int unused, int reason, const char *file, unsigned line)
{
  last[0] = library;
  last[1] = unused;
  last[2] = reason;
  last[3] = line;
  last_file = file;
}
