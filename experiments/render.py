"""What does a trained policy do? One episode as an animated GIF, of a run of train.py or of a policy that is shipped.

Of a run, by default the greedy policy of the seed that was best in its evaluation. The episode has a key of its own,
which neither training nor evaluation has used. Long episodes are shown with steps left out; the return counts them all.
Expect the return to be near the greedy one of the run's table, or of the policy's card. Seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from parts import drawing, places
from parts.command import as_script, refuse
from parts.reading import best_seed
from parts.recording import Recording, record

from pgjax import SettingError, counters, load_policy, pretrained
from pgjax.runs.record import files
from pgjax.runs.settings.start import start

RENDER_KEY = (1 << 31) + 2  # seeds of training are below 2³¹; the two before it are evaluation's
QUICK = {"max_frames": 20}


@dataclass(frozen=True)
class Rendering:
    """What to show, and where to write it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory; or the name of a shipped policy, such as Acrobot-v1 (pgjax.pretrained.list() has all)."""
    seed: int | None = None
    """Seed whose policy to show; default the one of the best greedy return in evaluation.csv, 0 where there is none."""
    out: Path | None = None
    """GIF to write; default episode.gif in the run directory, and NAME.gif here for a shipped policy."""
    sampled: bool = False
    """Sample actions instead of taking the most likely ones."""
    best: bool = False
    """From the checkpoint of the best return instead of the newest."""
    max_frames: int = 150
    """Show at most so many frames, evenly spaced; the first and the last state are always shown."""
    episode_seed: int = 0
    """Which episode: another number, another start and other chances."""
    quick: bool = False
    """Show at most 20 frames, unless --max-frames says how many."""


class Shown(NamedTuple):
    """What is shown."""

    environment: str
    seed: int
    recording: Recording


def main(rendering: Rendering) -> None:
    """Read, act, draw, write, say what was written."""
    check(rendering)
    start(1)
    shown = act(rendering)
    animation = animate(shown.environment, shown.recording, rendering.max_frames)
    out = place_of(rendering)
    write(out, animation)
    kind = "sampled" if rendering.sampled else "greedy"
    end = captions(shown.recording)[-1]
    print(f"wrote {out} ({len(animation) / 1000:.0f} kB): {shown.environment}, seed {shown.seed}, {kind}, {end}")


def place_of(rendering: Rendering) -> Path:
    """The GIF to write."""
    shipped = Path(f"{files.file_name(str(rendering.run))}.gif")
    return rendering.out or (rendering.run / "episode.gif" if rendering.run.is_dir() else shipped)


def check(rendering: Rendering) -> None:
    """Refuse what can be seen to fail before anything is read.

    Raises:
      SettingError: naming the first setting that cannot work.
    """
    if not rendering.run.is_dir():
        try:
            pretrained.card(str(rendering.run))
        except SettingError as error:
            raise SettingError("run", str(rendering.run), f"is no directory, and {error.reason}") from error
        refuse(rendering, ("seed", "best"), "one policy is shipped")
    if rendering.out is not None and rendering.out.suffix != ".gif":
        raise SettingError("out", str(rendering.out), "must end in .gif")
    places.check_file("out", place_of(rendering))
    if rendering.max_frames < 2:
        raise SettingError("max_frames", rendering.max_frames, "must be at least 2")
    counters.seed(rendering.episode_seed, "episode_seed")


def act(rendering: Rendering) -> Shown:
    """Read a policy back, and let it act.

    Raises:
      SettingError: for a run without a checkpoint, an environment that cannot be drawn, a seed that is not there.
    """
    if rendering.run.is_dir():
        seed = best_seed(rendering.run) if rendering.seed is None else rendering.seed
        setup, params = files.load_run(rendering.run, seed=seed, best=rendering.best)
        environment, agent = setup.environment, setup.agent
    else:
        environment, agent, params, card = load_policy(str(rendering.run))
        seed = card.seed
    drawing.check_drawable(environment.name)
    key = jax.random.fold_in(jax.random.key(RENDER_KEY), rendering.episode_seed)
    recording = record(environment, agent, params, key, greedy=not rendering.sampled)
    return Shown(environment.name, seed, recording)


def animate(name: str, recording: Recording, max_frames: int) -> bytes:
    """The GIF of an episode."""
    length = len(recording.returns) - 1
    stride = -(-length // (max_frames - 1))
    shown = [*range(0, length, stride), length]
    places = [jax.tree.map(lambda x, t=t: x[t], recording.places) for t in shown]
    lines = captions(recording)
    return drawing.gif(list(drawing.pictures(name, places, [lines[t] for t in shown])))


def captions(recording: Recording) -> list[str]:
    """What stands above each state: the steps that led to it and their return; how it ended, above the last."""
    decimals = 0 if np.all(recording.returns % 1 == 0) else 2
    totals = recording.returns.round(decimals) + 0.0  # no "-0"
    lines = [f"step {t}, return {total:.{decimals}f}" for t, total in enumerate(totals)]
    return [*lines[:-1], f"{lines[-1]} ({'ended' if recording.terminated else 'time limit'})"]


def write(out: Path, content: bytes) -> None:
    """Write a file, and the folder that it goes to.

    Raises:
      SettingError: if that cannot be done.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise SettingError("out", str(out), f"cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    as_script(main, Rendering, __doc__, QUICK)
