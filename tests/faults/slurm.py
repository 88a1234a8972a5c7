"""A SLURM cluster on this machine: a controller and two node daemons, loopback only, gone afterwards.

Needs Debian's slurm-wlm and munge, and root (the nodes' names are bound over /etc/hosts, for the daemons alone).
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONFIGURATION = """
ClusterName=pgjax
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,requeue_delay=1
GresTypes=gpu
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES State=UP
"""
GPUS = "NodeName=node[1-2] Name=gpu File=/dev/null\n"  # as the recipe asks for one; jax finds none
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "unshare")


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: install slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "must be root to give the nodes names"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and scontrol speak to the cluster."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "state").mkdir()
    ports = _free_ports(3)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname(), ports=ports))
    (folder / "gres.conf").write_text(GPUS)
    (folder / "hosts").write_text(Path("/etc/hosts").read_text() + "\n127.0.0.1 node1 node2\n")
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["--key-file", key, "--socket", folder / "munge.socket", "--pid-file", folder / "munged.pid"]
    munge += ["--log-file", folder / "munged.log", "--seed-file", folder / "munge.seed"]
    named = ["unshare", "--mount", "sh", "-c", f'mount --bind {folder}/hosts /etc/hosts && exec "$@"', "sh"]
    with ExitStack() as daemons:

        def start(*command: object) -> None:
            with (folder / f"{Path(str(command[-1])).name}.out").open("w") as output:
                process = subprocess.Popen([*map(str, command)], env=environment, stdout=output, stderr=output)
            daemons.callback(_end, process)

        start("munged", "--foreground", "--force", *munge)
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-c")
        for name in ("node1", "node2"):
            start(*named, "slurmd", "-D", "-N", name)
        _wait(lambda: _asked(environment, "sinfo", "--noheader", "--format=%T %D") == "idle 2", folder)
        yield environment


def submit(environment: dict[str, str], script: Path, cwd: Path, *options: str) -> str:
    """Submit a batch script from a folder; its job's number."""
    command = ["sbatch", "--parsable", *options, str(script)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def facts(environment: dict[str, str], job: str) -> dict[str, str]:
    """What the controller knows of a job: JobState, Restarts, ExitCode, …"""
    words = _asked(environment, "scontrol", "show", "job", "--oneliner", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def control(environment: dict[str, str], *command: str) -> None:
    """One command of scontrol."""
    result = subprocess.run(["scontrol", *command], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def _asked(environment: dict[str, str], *command: str) -> str:
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return result.stdout.strip()


def _wait(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*") if path.suffix in (".log", ".out")}
            raise AssertionError(f"the cluster did not start: {logs}")
        time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Neighbours that nothing listens on."""
    for first in range(16817, 60000, count):
        with ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return [first + i for i in range(count)]
    raise AssertionError("no free ports")
