"""A process that has imported everything and forks a training run for each request: so kills are cheap to repeat.

Nothing of jax has started when it forks; each child begins as a fresh interpreter would, only without the imports.
"""

import os
import runpy
import sys
import traceback
import warnings
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "experiments" / "train.py"


def serve() -> None:
    """Read `<stderr file>\\t<argument>\\t…` lines; answer each with the child's process id."""
    os.environ["MPLBACKEND"] = "agg"
    import chex  # noqa: F401  (gymnax itself makes arrays when imported; what it imports does not)
    import seaborn  # noqa: F401
    from matplotlib.figure import Figure

    import pgjax.runs.record.journal  # noqa: F401

    Figure.savefig = lambda _, path, **__: Path(path).write_bytes(b"")  # it would take longer than the training
    warnings.simplefilter("ignore", RuntimeWarning)  # of forking: no thread of jax runs yet
    print("ready", flush=True)
    for line in sys.stdin:
        errors, *arguments = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            run(errors, arguments)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(errors: str, arguments: list[str]) -> None:
    """Be train.py."""
    handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [str(SCRIPT), *arguments]
    code = 0
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
