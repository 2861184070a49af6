"""Which system calls a sandbox denies, by number on x86-64 (Linux, arch/x86/entry/syscalls/syscall_64.tbl).

The rest, up to NEWEST, is allowed: what it can do is bounded by namespaces or Landlock, by limits, and by having no
capabilities. Numbers above NEWEST, which kernels to come will add, do not exist inside.
"""

NEWEST = 462

# Refused with EPERM: sockets, other processes' memory and files, mounts, namespaces, kernel interfaces with a history
# of holes, clocks, devices, what a user or the machine has few of, and memory that no limit counts: pages that a pipe
# keeps after their file or process is gone, filters, rules, larger buffers of sockets.
DENIED = {
    "sendfile": 40,
    "socket": 41,
    "connect": 42,
    "accept": 43,
    "bind": 49,
    "listen": 50,
    "setsockopt": 54,
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "semget": 64,
    "semop": 65,
    "semctl": 66,
    "shmdt": 67,
    "msgget": 68,
    "msgsnd": 69,
    "msgrcv": 70,
    "msgctl": 71,
    "ptrace": 101,
    "syslog": 103,
    "mknod": 133,
    "uselib": 134,
    "ustat": 136,
    "vhangup": 153,
    "modify_ldt": 154,
    "personality": 135,
    "pivot_root": 155,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "nfsservctl": 180,
    "io_setup": 206,
    "lookup_dcookie": 212,
    "semtimedop": 220,
    "clock_settime": 227,
    "mq_open": 240,
    "mq_unlink": 241,
    "mq_timedsend": 242,
    "mq_timedreceive": 243,
    "mq_notify": 244,
    "mq_getsetattr": 245,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "inotify_init": 253,
    "migrate_pages": 256,
    "mknodat": 259,
    "unshare": 272,
    "splice": 275,
    "tee": 276,
    "vmsplice": 278,
    "move_pages": 279,
    "accept4": 288,
    "inotify_init1": 294,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "seccomp": 317,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "process_mrelease": 448,
    "statmount": 457,
    "listmount": 458,
}

# Refused with ENOSYS, upon which libraries take an older call. clone3's arguments lie in memory, where a filter cannot
# see them. Pages of a memfd count for no process until they are mapped.
ABSENT = {"memfd_create": 319, "clone3": 435, "memfd_secret": 447}

# These do nothing and report success. Locks: those on files of the host would make its programs wait, and the kernel's
# memory for them has no limit. sync: all programs would wait for the disk.
WITHOUT_EFFECT = {"flock": 73, "sync": 162, "syncfs": 306}

# At level landlock, where processes outside are in sight.
DENIED_OUTSIDE_NAMESPACES = {"fork": 57, "vfork": 58, "truncate": 76, "tkill": 200}
# There these do nothing and report success: Landlock does not govern them, and copy2, zipfile and tempfile need them.
WITHOUT_EFFECT_OUTSIDE_NAMESPACES = {
    "chmod": 90,
    "fchmod": 91,
    "chown": 92,
    "fchown": 93,
    "lchown": 94,
    "utime": 132,
    "setxattr": 188,
    "lsetxattr": 189,
    "fsetxattr": 190,
    "removexattr": 197,
    "lremovexattr": 198,
    "fremovexattr": 199,
    "utimes": 235,
    "fchownat": 260,
    "futimesat": 261,
    "fchmodat": 268,
    "utimensat": 280,
    "fchmodat2": 452,
}

# Landlock does not govern these either: refused with ENOTSUP, as by a file system without extended attributes.
WITHOUT_SUPPORT_OUTSIDE_NAMESPACES = {
    "getxattr": 191,
    "lgetxattr": 192,
    "fgetxattr": 193,
    "listxattr": 194,
    "llistxattr": 195,
    "flistxattr": 196,
}

# For the calling process only: their first argument must be 0 or its PID.
OF_OWN_PROCESS = {
    "sched_setparam": 142,
    "sched_setscheduler": 144,
    "sched_setaffinity": 203,
    "prlimit64": 302,
    "sched_setattr": 314,
}
OF_OWN_PROCESS_OUTSIDE_NAMESPACES = {
    "kill": 62,
    "getpgid": 121,
    "getsid": 124,
    "rt_sigqueueinfo": 129,
    "sched_getparam": 143,
    "sched_getscheduler": 145,
    "sched_rr_get_interval": 148,
    "sched_getaffinity": 204,
    "tgkill": 234,
    "get_robust_list": 274,
    "rt_tgsigqueueinfo": 297,
    "sched_getattr": 315,
    "pidfd_open": 434,
}

# Filtered by other arguments in seccomp.py.
MMAP, IOCTL, SOCKETPAIR, CLONE, FCNTL, GETPRIORITY, SETPRIORITY, PRCTL = 9, 16, 53, 56, 72, 140, 141, 157
IOPRIO_SET, IOPRIO_GET = 251, 252
