"""Where a process listens for the others when CPUs sum gradients: at the address by which it reaches process 0.

gloo by itself listens at what the host's own name resolves to, and that is often loopback (Debian writes 127.0.1.1
into /etc/hosts), where no other host reaches it.
"""

import functools
import ipaddress
import socket

from jaxlib import _jax  # type: ignore[attr-defined]  (gloo's address has no public name in jax)


def own_address(coordinator: str) -> str | None:
    """The address of this host on its way to a coordinator; None where that is this host alone, or unknown.

    Args:
      coordinator: HOST:PORT.

    >>> own_address("127.0.0.1:8476") is None
    True
    """
    host, _, port = coordinator.rpartition(":")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # of datagrams: it chooses a route, and sends nothing
            address = probe.getsockname()[0]
    except (OSError, ValueError):
        return None
    return None if ipaddress.ip_address(address.partition("%")[0]).is_loopback else address


def listen_at(address: str) -> None:
    """Let gloo listen at an address of this host; call before the first array is made."""
    make = _jax.make_gloo_tcp_collectives
    make = make.func if isinstance(make, functools.partial) else make
    _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=address)
