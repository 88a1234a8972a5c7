"""Joining and leaving the group of processes of a distributed run."""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from jax._src import distributed  # the coordinator's address has no public name

from pgjax.runs.record.attempts import Incomplete, say
from pgjax.runs.record.interrupts import Stopped
from pgjax.runs.settings.addresses import listen_at, own_address
from pgjax.runs.settings.agreement import check_agreement
from pgjax.runs.settings.flags import Settings
from pgjax.types import SettingError

HEARTBEAT_TIMEOUT = 30
"""Seconds without a heartbeat after which a process counts as dead and all others end."""

SHUTDOWN_TIMEOUT = 120
"""Seconds for which a finished process waits for the others; process 0 still writes results then."""


class Place(NamedTuple):
    """Coordinator, number and index of a process. All are None if JAX finds them itself (SLURM)."""

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None


def place_of(settings: Settings) -> Place:
    """Coordinator, number and index of this process, from flags, a Kubernetes job index, or SLURM."""
    given = settings.coordinator or settings.processes or settings.process_id >= 0
    if not given and "SLURM_PROCID" in os.environ and "SLURM_STEP_NODELIST" in os.environ:
        return Place()
    if ":" not in settings.coordinator or not settings.coordinator.rpartition(":")[2].isdigit():
        raise SettingError("coordinator", settings.coordinator, "must be HOST:PORT of process 0")
    if settings.processes < 1:
        raise SettingError("processes", settings.processes, "must be the number of processes, at least 1")
    number = settings.process_id if settings.process_id >= 0 else int(os.environ.get("JOB_COMPLETION_INDEX", -1))
    if not 0 <= number < settings.processes:
        raise SettingError("process_id", number, f"must be one of 0 to {settings.processes - 1}")
    return Place(settings.coordinator, settings.processes, number)


@contextmanager
def joined(settings: Settings) -> Iterator[None]:
    """Join the other processes of a distributed run, and leave at the end. Enter it before the first array is made.

    A process that fails ends the others: at once if they wait for it, else after HEARTBEAT_TIMEOUT. Errors that all
    processes raise together (invalid settings, a stop request, incomplete output) let them shut down in order.
    """
    if not settings.distributed:
        yield
        return
    _join(place_of(settings), settings.join_timeout)
    try:
        check_agreement(settings, settings.join_timeout)
        yield
    except (SettingError, Stopped, Incomplete):
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        # An orderly shutdown would wait for a process that may be dead.
        if _is_of_others(error):
            say("error: another process has ended or cannot be reached; start all processes again with --resume")
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    jax.distributed.shutdown()


def _join(place: Place, timeout: int) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
    with _deadline(timeout, place):
        try:
            jax.distributed.initialize(
                *place,
                cluster_detection_method=None if place.coordinator is None else "deactivate",
                initialization_timeout=timeout + 60,  # longer than the deadline, because JAX would print a stack trace
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
        except (RuntimeError, ValueError) as error:
            reason = f"cannot be used: {str(error).splitlines()[0]}"
            raise SettingError("coordinator", place.coordinator, reason) from error
    coordinator = place.coordinator or distributed.global_state.coordinator_address  # under SLURM, JAX finds it
    if address := own_address(coordinator or ""):
        listen_at(address)


@contextmanager
def _deadline(seconds: int, place: Place) -> Iterator[None]:
    """End the process with one line if the body takes longer: JAX waits in C++, where no exception can be raised."""

    def end() -> None:
        where = place.coordinator or "the first task's host"
        if place.process_id == 0:
            say(f"error: processes: {place.processes} were expected at {where}, not all joined within {seconds} s")
        else:
            say(f"error: coordinator: {where} could not be reached within {seconds} s; is process 0 running there?")
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_of_others(error: BaseException) -> bool:
    """Whether an error reports a broken connection to another process."""
    text = str(error)
    return any(word in text for word in ("Gloo", "NCCL", "coordination service", "Connection closed by peer"))
