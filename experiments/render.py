"""What does a trained policy do? One episode as an animated GIF, from a run of train.py or a shipped policy.

For a run the default is the greedy policy of the seed with the best evaluation. The episode uses a key that neither
training nor evaluation uses. In long episodes some steps are not shown, but the return counts all of them. Expect a
return near the greedy return of the run or on the policy's card. Takes seconds.
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

RENDER_KEY = (1 << 31) + 2  # training seeds are below 2³¹, and evaluation uses the two keys before this one
QUICK = {"max_frames": 20}


@dataclass(frozen=True)
class Rendering:
    """Options: which episode to show, and where to write it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or the name of a shipped policy, such as Acrobot-v1 (see pgjax.pretrained.list())."""
    seed: int | None = None
    """Seed whose policy to show; default that with the best greedy return in evaluation.csv, else the first."""
    out: Path | None = None
    """GIF to write; default episode.gif in the run directory, or NAME.gif here for a shipped policy."""
    sampled: bool = False
    """Sample actions instead of taking the most likely ones."""
    best: bool = False
    """Use the checkpoint with the best return instead of the newest one."""
    max_frames: int = 150
    """Maximum number of frames, evenly spaced; the first and the last state are always shown."""
    episode_seed: int = 0
    """Seed of the episode: its initial state and random numbers."""
    quick: bool = False
    """Show at most 20 frames, unless --max-frames is given."""


class Shown(NamedTuple):
    """The episode to show."""

    environment: str
    seed: int
    recording: Recording


def main(rendering: Rendering) -> None:
    """Read the policy, run an episode, draw it and write the GIF."""
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
    """Path of the GIF."""
    shipped = Path(f"{files.file_name(str(rendering.run))}.gif")
    return rendering.out or (rendering.run / "episode.gif" if rendering.run.is_dir() else shipped)


def check(rendering: Rendering) -> None:
    """Check the options before anything is read.

    Raises:
      SettingError: for the first invalid one.
    """
    if not rendering.run.is_dir():
        try:
            pretrained.card(str(rendering.run))
        except SettingError as error:
            raise SettingError("run", str(rendering.run), f"is not a directory, and {error.reason}") from error
        refuse(rendering, ("seed", "best"), "there is only one shipped policy")
    if rendering.out is not None and rendering.out.suffix != ".gif":
        raise SettingError("out", str(rendering.out), "must end in .gif")
    places.check_file("out", place_of(rendering))
    if rendering.max_frames < 2:
        raise SettingError("max_frames", rendering.max_frames, "must be at least 2")
    counters.seed(rendering.episode_seed, "episode_seed")


def act(rendering: Rendering) -> Shown:
    """Read a policy and run an episode with it.

    Raises:
      SettingError: for a run without a checkpoint, an environment that cannot be drawn, or an unknown seed.
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
    """The caption of each state: its step and return; for the last one also how the episode ended."""
    decimals = 0 if np.all(recording.returns % 1 == 0) else 2
    totals = recording.returns.round(decimals) + 0.0  # no "-0"
    lines = [f"step {t}, return {total:.{decimals}f}" for t, total in enumerate(totals)]
    return [*lines[:-1], f"{lines[-1]} ({'ended' if recording.terminated else 'time limit'})"]


def write(out: Path, content: bytes) -> None:
    """Write a file and create its folder.

    Raises:
      SettingError: if it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise SettingError("out", str(out), f"cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    as_script(main, Rendering, __doc__, QUICK)
