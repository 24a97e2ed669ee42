/* A seccomp filter by hand: every system call that is not on the list kills the process. */

#ifndef SECCOMP_H
#define SECCOMP_H

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static void allow_only_known_calls(void)
{
    static const int KNOWN[] = {
        SYS_brk,          SYS_clock_gettime, SYS_close,       SYS_connect,      SYS_exit,     SYS_exit_group,
        SYS_fcntl,        SYS_fstat,         SYS_futex,       SYS_getpid,       SYS_getrandom, SYS_getsockopt,
        SYS_gettid,       SYS_ioctl,         SYS_lseek,       SYS_madvise,      SYS_mmap,     SYS_mprotect,
        SYS_mremap,       SYS_munmap,        SYS_newfstatat,  SYS_openat,       SYS_poll,     SYS_read,
        SYS_recvfrom,     SYS_recvmsg,       SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sendmsg,
        SYS_sendto,       SYS_setsockopt,    SYS_shutdown,    SYS_socket,       SYS_write,    SYS_writev,
    };
    enum { COUNT = sizeof KNOWN / sizeof *KNOWN };
    struct sock_filter filter[COUNT + 6] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    for (int at = 0; at < COUNT; at++)
        filter[4 + at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)KNOWN[at],
                                                      (unsigned char)(COUNT - at), 0);
    filter[COUNT + 4] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[COUNT + 5] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = COUNT + 6, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("seccomp");
        exit(1);
    }
}

#endif
