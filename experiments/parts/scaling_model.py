"""What many GPUs would gain: a model of two numbers per link, fed with what the compiled program sends."""

import math
from typing import NamedTuple

from parts.collectives import Traffic


class Link(NamedTuple):
    """How devices are connected."""

    latency: float  # seconds of one step of a collective
    bandwidth: float  # bytes per second and device


NODE = 8
"""GPUs that share a node."""

WITHIN = Link(latency=5e-6, bandwidth=200e9)
"""NVLink: the order of what NCCL's own tests report."""

BETWEEN = Link(latency=10e-6, bandwidth=25e9)
"""One 200 Gbit/s adapter per GPU."""

LAUNCH = 15e-6
"""Seconds that a collective of any size takes to start."""


def all_reduce_seconds(traffic: Traffic, devices: int) -> float:
    """Time for `traffic` among so many devices: trees in latency, rings in bandwidth.

        t = calls · (launch + 2 ⌈log₂ n⌉ · latency) + 2 (n − 1)/n · bytes / bandwidth

    >>> all_reduce_seconds(Traffic(4, 40_000), 1)
    0.0
    """
    if devices == 1:
        return 0.0
    link = WITHIN if devices <= NODE else BETWEEN
    steps = traffic.calls * (LAUNCH + 2 * math.ceil(math.log2(devices)) * link.latency)
    return steps + 2 * (devices - 1) / devices * traffic.bytes / link.bandwidth


def seed_efficiency(devices: int, chunk_seconds: float, bytes_per_chunk: float, fixed: float = 1e-3) -> float:
    """Share of n times one device's speed, seeds spread over them: only the metrics of each chunk are gathered.

    Args:
      devices: how many, each with its own seeds, as many as one device alone would have.
      chunk_seconds: of computing between two gatherings.
      bytes_per_chunk: of one device's metrics.
      fixed: seconds that gathering takes on the host, however little it is.

    >>> seed_efficiency(1, 1.0, 1e6)
    1.0
    """
    if devices == 1:
        return 1.0
    return chunk_seconds / (chunk_seconds + fixed + bytes_per_chunk * devices / BETWEEN.bandwidth)


def environment_efficiency(devices: int, update_seconds: float, traffic: Traffic) -> float:
    """Share of n times one device's speed, one batch shared among n devices, as large for each as for one alone.

    >>> environment_efficiency(1, 0.01, Traffic(4, 40_000))
    1.0
    """
    return update_seconds / (update_seconds + all_reduce_seconds(traffic, devices))
