"""The network address at which a process accepts gloo connections. gloo's default, the address of the host's own name,
is often the loopback address 127.0.1.1 on Debian (from /etc/hosts), which other hosts cannot reach.
"""

import functools
import ipaddress
import socket

from jaxlib import _jax  # type: ignore[attr-defined]  (jax has no public option for gloo's address)


def own_address(coordinator: str) -> str | None:
    """The address of this host on the route to a coordinator HOST:PORT; None if that is loopback or unknown."""
    host, _, port = coordinator.rpartition(":")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # a datagram socket only chooses a route here; nothing is sent
            address = probe.getsockname()[0]
    except (OSError, ValueError):
        return None
    return None if ipaddress.ip_address(address.partition("%")[0]).is_loopback else address


def listen_at(address: str) -> None:
    """Make gloo listen on an address of this host. Call it before the first array is made."""
    make = _jax.make_gloo_tcp_collectives
    make = make.func if isinstance(make, functools.partial) else make
    _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=address)
