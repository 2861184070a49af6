"""Probes of sockets."""

import socket

from tests.support.sandbox_probes.suite import probe


@probe("reached")
def loopback_tcp(there):
    socket.create_connection(tuple(there["tcp"]), 2)


@probe("reached")
def loopback_udp(there):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", tuple(there["udp"]))


@probe("true")
def udp_route(there):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.connect(("127.0.0.1", 53))
        return found.getsockname()[0] != "0.0.0.0"


@probe("reached")
def path_socket(there):
    socket.socket(socket.AF_UNIX).connect(there["path"])


@probe("reached")
def path_datagram(there):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", there["path_datagram"])


@probe("reached")
def abstract_socket(there):
    socket.socket(socket.AF_UNIX).connect(there["abstract"])


@probe("reached")
def abstract_datagram(there):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", there["abstract_datagram"])


@probe("reached")
def pair_sends_to_path(there):
    """A pair needs no socket(): a datagram socket of one can send to any path."""
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", there["path_datagram"])


@probe("reached")
def pair_with_flags_sends_to_path(there):
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b"x", there["path_datagram"])


@probe("reached")
def stream_pair_sends_to_path(there):
    socket.socketpair()[0].sendto(b"x", there["path"])


@probe("reached")
def raw_pair_sends_to_path(there):
    """AF_UNIX takes SOCK_RAW for SOCK_DGRAM."""
    socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)[0].sendto(b"x", there["path_datagram"])


@probe("true")
def socket_families(there):
    opened = []
    for family in range(1, 46):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                opened.append(socket.socket(family, kind))
            except OSError:
                continue
    return len(opened) > 0


@probe("true")
def vsock(there):
    """Sockets to the hypervisor; they know no network namespaces."""
    socket.socket(40, socket.SOCK_STREAM)
    return True


@probe("true")
def netlink(there):
    socket.socket(16, socket.SOCK_RAW, 0).bind((0, 0))
    return True


@probe("true")
def listen(there):
    with socket.socket(socket.AF_INET) as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
    return True


@probe("true")
def socket_options(there):
    """Filters and larger buffers are kernel memory that no limit counts."""
    first, _ = socket.socketpair()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    return True


@probe("true")
def interfaces(there):
    """The host's network interfaces, those beside the loopback of every namespace."""
    return len(open("/proc/self/net/dev").read().splitlines()) > 3
