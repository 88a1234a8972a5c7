"""Drawings of environment states, as shapes or as grid cells with a legend.

gymnax's own drawings need pygame for classic control and have no legends for the others. Other families are drawn in
`family_pictures`.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Rectangle
from PIL import Image

from parts.family_pictures import FAMILIES, painter
from pgjax import environments
from pgjax.environments.randomisation import Drawn
from pgjax.training.rollout import Visited
from pgjax.types import SettingError

PAPER, INK, GREY, PALE = "#ffffff", "#303030", "#999999", "#dcdcdc"
BLUE, SKY, GREEN, YELLOW = "#0072b2", "#56b4e9", "#009e73", "#f0e442"
ORANGE, RED, PINK, BROWN = "#e69f00", "#d55e00", "#cc79a7", "#7f4f24"
COLOURS = (INK, GREY, PALE, BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PINK, BROWN)
SHADES = 5
"""Shades of each colour on white, for smooth edges; a small palette keeps files small."""
FIGURE_INCHES, DPI = (3.6, 3.0), 90
SECONDS, FASTEST_MS, SLOWEST_MS, LAST_MS = 10, 40, 200, 2000


class Game(NamedTuple):
    """A gymnax environment and its parameters."""

    env: Any
    params: Any


def _game(name: str) -> Game:
    """The gymnax environment of a name, with the parameters that the name sets."""
    import gymnax

    env, params = gymnax.make(name.split(":")[0])
    return Game(env, params.replace(**environments.make(name).parameters))


def check_drawable(name: str) -> None:
    """Reject an environment that has no drawing.

    Raises:
      SettingError: listing the environments that have one.
    """
    plain, *settings = name.split(":")
    if painter(name) is not None:
        return
    if plain not in DRAWINGS:
        those = f"{', '.join(DRAWINGS)}, and environments of {', '.join(FAMILIES)}"
        raise SettingError("environment", name, f"cannot be drawn; choose from {those}")
    known = "max_steps_in_episode", *environments.make(name).parameters
    if other := [setting for setting in settings if setting.partition("=")[0] not in known]:
        raise SettingError("environment", name, f"cannot be drawn with {other[0]}")


def pictures(name: str, places: Iterable[Visited], captions: Iterable[str]) -> Iterator[np.ndarray]:
    """A uint8 image [height, width, 3] per state, with the environment's name and a caption.

    Parameters drawn for the episode (`pgjax.environments.randomisation`) are added to the name.
    """
    paint = painter(name)
    game: Any = None if "/" in name else _game(name)
    figure = Figure(FIGURE_INCHES, DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    for place, caption in zip(places, captions, strict=True):
        figure.clear()
        title, own = name, game
        if isinstance(place.state, Drawn):
            drawn = place.state.values
            title = ", ".join([name, *(f"{one} {float(value):.3g}" for one, value in drawn.items())])
            own, place = game._replace(params=game.params.replace(**drawn)), place._replace(state=place.state.state)
        figure.text(0.04, 0.93, title, weight="bold", size=11, color=INK)
        figure.text(0.04, 0.86, caption, size=10, color=INK)
        axes = figure.add_axes((0.04, 0.03, 0.92, 0.78), aspect="equal")
        axes.set_axis_off()
        if paint:
            paint(axes, place.state)
        else:
            DRAWINGS[name.split(":")[0]](axes, own, place)
        canvas.draw()
        yield np.array(canvas.buffer_rgba())[..., :3]


def gif(frames: Sequence[np.ndarray]) -> bytes:
    """An animated GIF of about ten seconds, less for few frames, with a pause of two seconds at the end."""
    palette = palette_of(frames)
    images = [Image.fromarray(x).quantize(palette=palette, dither=Image.Dither.NONE) for x in frames]
    each = int(np.clip(1000 * SECONDS / len(frames), FASTEST_MS, SLOWEST_MS))
    times = [each] * (len(frames) - 1) + [LAST_MS]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    return file.getvalue()


def palette_of(frames: Sequence[np.ndarray]) -> Image.Image:
    """The palette of these drawings, or for a family's renderer the most frequent colours of some frames."""
    own = Image.new("P", (1, 1))
    own.putpalette(_palette().ravel().tolist())
    some = np.concatenate(frames[:: max(1, len(frames) // 8)])
    drawn = np.asarray(Image.fromarray(some).quantize(palette=own, dither=Image.Dither.NONE).convert("RGB"))
    if np.abs(drawn.astype(int) - some).max(axis=-1).mean() < 3:
        return own
    return Image.fromarray(some).quantize(colors=256)


def _palette() -> np.ndarray:
    """Shades of every colour, [colours, 3], so that rare colours are not lost."""
    paper, full = np.array(to_rgb(PAPER)), np.array([to_rgb(c) for c in COLOURS])
    share = np.linspace(0.0, 1.0, SHADES + 1)[1:, None, None]
    shades = (paper + share * (full - paper)).reshape(-1, 3)
    return np.round(255 * np.concatenate([paper[None], shades])).astype(np.uint8)


def cart_pole(axes: Axes, game: Game, place: Visited) -> None:
    """The cart on its track, and marks where an episode ends."""
    x, angle, edge = place.state.x, place.state.theta, game.params.x_threshold
    length = 2 * game.params.length
    axes.set(xlim=(-edge - 0.4, edge + 0.4), ylim=(-0.8, max(1.6, length + 0.3)))
    axes.plot([-edge, edge], [0, 0], color=GREY, linewidth=2)
    axes.plot([[-edge, edge]] * 2, [[-0.2] * 2, [0.2] * 2], color=GREY, linewidth=2)
    axes.add_patch(Rectangle((x - 0.3, -0.17), 0.6, 0.34, color=BLUE, zorder=2))
    _rod(axes, (x, 0.1), (x + length * np.sin(angle), 0.1 + length * np.cos(angle)), ORANGE)


def acrobot(axes: Axes, game: Game, place: Visited) -> None:
    """Two links, and the line that the tip must reach."""
    first, second = place.state.joint_angle1, place.state.joint_angle1 + place.state.joint_angle2
    elbow = game.params.link_length_1 * np.array([np.sin(first), -np.cos(first)])
    tip = elbow + game.params.link_length_2 * np.array([np.sin(second), -np.cos(second)])
    reach = max(2.2, game.params.link_length_1 + game.params.link_length_2 + 0.2)
    axes.set(xlim=(-reach - 0.1, reach + 0.1), ylim=(-reach, reach))
    axes.plot([-reach - 0.1, reach + 0.1], [1, 1], color=GREEN, linewidth=2, linestyle="--")
    _rod(axes, (0, 0), elbow, BLUE)
    _rod(axes, elbow, tip, ORANGE)


def pendulum(axes: Axes, game: Game, place: Visited) -> None:
    """The rod; upright is the goal."""
    angle, length = place.state.theta, game.params.l
    reach = max(1.2, length + 0.2)
    axes.set(xlim=(-reach - 0.1, reach + 0.1), ylim=(-reach, reach))
    axes.plot([0, 0], [length + 0.05, length + 0.15], color=GREEN, linewidth=3)
    _rod(axes, (0, 0), (-length * np.sin(angle), length * np.cos(angle)), ORANGE)


def mountain_car(axes: Axes, game: Game, place: Visited) -> None:
    """The car in the valley, and the flag it must reach."""

    def height(x: Any) -> Any:
        return 0.45 * np.sin(3 * x) + 0.55

    low, high, goal = game.params.min_position, game.params.max_position, game.params.goal_position
    x = np.linspace(low - 0.06, high + 0.06, 100)
    axes.set(xlim=(x[0], x[-1]), ylim=(-0.1, 1.35))
    axes.fill_between(x, -0.1, height(x), color=PALE, linewidth=0)
    axes.plot([goal, goal], [height(goal), height(goal) + 0.22], color=GREEN, linewidth=2)
    axes.fill([goal, goal, goal - 0.1], height(goal) + np.array([0.22, 0.12, 0.17]), color=GREEN)
    position = place.state.position
    axes.add_patch(Circle((position, height(position) + 0.05), 0.05, color=BLUE))


def point_robot(axes: Axes, game: Game, place: Visited) -> None:
    """The robot and the goal on its half circle; the view is wider if the robot has left it."""
    angles = np.linspace(0, np.pi, 60)
    radius = max(1.3, *(np.abs(place.state.pos) + 0.1))
    axes.set(xlim=(-radius, radius), ylim=(-radius, radius))
    axes.plot(np.cos(angles), np.sin(angles), color=GREY, linewidth=1.5)
    axes.add_patch(Circle(place.state.goal, game.params.goal_radius, color=GREEN))
    axes.add_patch(Circle(place.state.pos, 0.06, color=BLUE))


def _rod(axes: Axes, start: Sequence[float], end: Sequence[float], colour: str) -> None:
    axes.plot(*zip(start, end, strict=True), color=colour, linewidth=6, solid_capstyle="round", zorder=3)
    axes.plot(*start, "o", color=INK, markersize=5, zorder=4)


def catch(axes: Axes, game: Game, place: Visited) -> None:
    """Ball and paddle."""
    state, shape = place.state, place.observation.shape
    ball, paddle = (_cell(shape, at) for at in ((state.ball_y, state.ball_x), (state.paddle_y, state.paddle_x)))
    _grid(axes, {"ball": ball, "paddle": paddle}, (RED, BLUE))


def maze(axes: Axes, game: Game, place: Visited) -> None:
    """Walls, goal and agent."""
    walls = np.asarray(game.env.occupied_map, bool)
    agent, goal = _cell(walls.shape, place.state.pos), _cell(walls.shape, place.state.goal)
    _grid(axes, {"agent": agent, "goal": goal, "wall": walls}, (BLUE, GREEN, GREY))


def channels(axes: Axes, game: Game, place: Visited, kinds: Mapping[str, tuple[int, str]]) -> None:
    """An image observation [rows, columns, channels]; `kinds` maps names to channels and colours."""
    seen = np.asarray(place.observation) > 0
    _grid(axes, {name: seen[..., i] for name, (i, _) in kinds.items()}, [colour for _, colour in kinds.values()])


def _cell(shape: tuple[int, ...], at: Any) -> np.ndarray:
    cells = np.zeros(shape, bool)
    cells[tuple(at)] = True
    return cells


def _grid(axes: Axes, kinds: Mapping[str, np.ndarray], colours: Sequence[str]) -> None:
    """Cells by kind, [rows, columns]; in one cell the first kind is shown."""
    there = np.stack([np.zeros_like(next(iter(kinds.values()))), *kinds.values()])
    there[0] = ~there[1:].any(axis=0)
    rows, columns = there.shape[1:]
    axes.set_position((0.04, 0.03, 0.6, 0.78))
    axes.set_anchor("NW")
    axes.imshow(np.argmax(there, axis=0), ListedColormap([PAPER, *colours]), vmin=0, vmax=len(colours))
    lines = {"color": PALE, "linewidth": 8 / max(rows, columns), "clip_on": False}
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, **lines)
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, **lines)
    handles = [Patch(color=colour, label=name) for name, colour in zip(kinds, colours, strict=True)]
    sizes = {"fontsize": 8, "handlelength": 1, "handletextpad": 0.5}
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, **sizes)


DRAWINGS = {
    "CartPole-v1": cart_pole,
    "Acrobot-v1": acrobot,
    "Pendulum-v1": pendulum,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car,
    "PointRobot-misc": point_robot,
    "Catch-bsuite": catch,
    "FourRooms-misc": maze,
    "MetaMaze-misc": maze,
    "Pong-misc": partial(channels, kinds={"ball": (1, RED), "paddle": (0, BLUE), "ball before": (2, YELLOW)}),
    "Asterix-MinAtar": partial(
        channels, kinds={"player": (0, BLUE), "enemy": (1, RED), "gold": (3, ORANGE), "trail": (2, PALE)}
    ),
    "Breakout-MinAtar": partial(
        channels, kinds={"ball": (1, RED), "paddle": (0, BLUE), "ball before": (2, YELLOW), "brick": (3, BROWN)}
    ),
    "Freeway-MinAtar": partial(
        channels,
        kinds={
            "chicken": (0, BLUE),
            "car": (1, INK),
            "trail, 1 step/cell": (2, RED),
            "trail, 2 steps/cell": (3, ORANGE),
            "trail, 3 steps/cell": (4, YELLOW),
            "trail, 4 steps/cell": (5, SKY),
            "trail, 5 steps/cell": (6, PALE),
        },
    ),
    "Seaquest-MinAtar": partial(
        channels,
        kinds={
            "sub": (0, BLUE),
            "its back": (1, SKY),
            "its bullet": (2, INK),
            "enemy sub": (6, RED),
            "enemy bullet": (4, PINK),
            "fish": (5, BROWN),
            "diver": (9, ORANGE),
            "divers aboard": (8, YELLOW),
            "oxygen": (7, GREEN),
            "trail": (3, PALE),
        },
    ),
    "SpaceInvaders-MinAtar": partial(
        channels, kinds={"cannon": (0, BLUE), "its bullet": (4, INK), "alien bullet": (5, RED), "alien": (1, GREEN)}
    ),
}
DRAWINGS |= {
    f"pgx/minatar-{game}": DRAWINGS[f"{kind}-MinAtar"]
    for game, kind in {"asterix": "Asterix", "breakout": "Breakout", "space_invaders": "SpaceInvaders"}.items()
}
"""Drawing of each environment; in one cell of a grid the first kind is shown."""
