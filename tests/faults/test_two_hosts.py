"""Two hosts with addresses of their own: a wire that is cut, slow and lossy, and hosts that are set up differently."""

import re
import time
from contextlib import ExitStack

import hosts
import pytest
from conftest import serving, together
from runs import TINY, fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = [*TINY, "--save-every", "0", "--total-steps", str(36 * 1500)]
"""Three hundred chunks with a checkpoint after each, which is some ten seconds."""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A wire, and what starts train.py on both of its ends."""
    if reason := hosts.missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        wire, inside = stack.enter_context(hosts.two_hosts())
        folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
        runs = [stack.enter_context(serving(*host)) for host in zip(folders, inside)]
        ports = iter(range(8476, 9000))

        def start(*arguments, second=()):
            return together(runs, f"{hosts.ADDRESSES[0]}:{next(ports)}", arguments, second)

        yield wire, start


@pytest.fixture
def joined(network):
    """The same with the wire whole again."""
    wire, _ = network
    wire.cut, wire.delay, wire.loss = False, 0.0, 0.0
    yield network
    wire.cut, wire.delay, wire.loss = False, 0.0, 0.0


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The run of one process with two devices, undisturbed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = train(*RUN, "--devices", "2", "--out", path)
    assert run.end() == 0, run.stderr
    return path


def work_begun(process, path):
    """Wait until a run has saved something."""
    process.wait_for(lambda: path.exists() and any((path / "checkpoints").glob("0*")))


@pytest.mark.parametrize("seconds", [0, 5])
def test_a_short_cut_changes_nothing(joined, whole, tmp_path, seconds):
    wire, start = joined
    path = tmp_path / "run"
    processes = start(*RUN, "--out", path)
    work_begun(processes[0], path)
    wire.cut = True
    time.sleep(seconds)
    assert all(p.running() for p in processes)
    wire.cut = False
    assert [p.end() for p in processes] == [0, 0], [p.stderr for p in processes]
    assert fingerprint(path) == fingerprint(whole)


def test_a_long_cut_ends_both_and_a_restart_goes_on_to_the_same_bits(joined, whole, tmp_path):
    wire, start = joined
    path = tmp_path / "run"
    processes = start(*RUN, "--out", path)
    work_begun(processes[0], path)
    wire.cut, begun = True, time.monotonic()
    for p in processes:
        assert p.end(60) not in (0, 2)
        print(f"\nended {time.monotonic() - begun:.1f} s after the cut: {p.stderr}")
    wire.cut = False
    again = start("--resume", path)
    assert [p.end() for p in again] == [0, 0], [p.stderr for p in again]
    assert fingerprint(path) == fingerprint(whole)


def test_a_slow_and_lossy_wire_changes_nothing_but_time(joined, train, tmp_path):
    wire, start = joined
    few = [*RUN[:-1], str(36 * 50)]
    alone = train(*few, "--devices", "2", "--out", tmp_path / "alone")
    assert alone.end() == 0, alone.stderr
    wire.delay, wire.loss = 0.05, 0.01
    processes = start(*few, "--out", tmp_path / "run")
    assert [p.end(400) for p in processes] == [0, 0], [p.stderr for p in processes]
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "alone")
    print(f"\n{wire.carried} packets")


def test_a_host_with_other_flags_is_refused_in_one_line(joined, tmp_path):
    _, start = joined
    processes = start(*RUN, "--out", tmp_path / "run", second=["--learning-rate", "0.25"])
    assert [p.end() for p in processes] == [2, 2]
    for p in processes:
        assert re.fullmatch(r"error: learning_rate: '0.25' in process 1 differs from .* in process 0; .*\n", p.stderr)
    assert not (tmp_path / "run").exists()
