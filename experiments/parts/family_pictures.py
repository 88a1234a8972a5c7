"""Images of environments from the renderers of their families.

brax and MuJoCo Playground render with OpenGL, which many machines lack. Here their geoms are drawn from the side, x
against z, at the positions of MuJoCo's kinematics.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Polygon

from pgjax.environments import brax, craftax, jumanji, navix, playground, xland
from pgjax.environments.packages import load
from pgjax.types import SettingError

Paint = Callable[[Axes, Any], None]
"""Function (axes, state of the `Environment`) that draws the state."""


def painter(name: str) -> Paint | None:
    """The function that draws states of an environment; None if its family has none.

    Raises:
      NotInstalled: without the family's package.
      SettingError: for an environment that its family cannot draw.
    """
    family, _, plain = name.partition("/")
    make = FAMILIES.get(family) if plain else None
    return make(name, plain.split(":")[0]) if make else None


def _xland(name: str, plain: str) -> Paint:
    package = load("xminigrid", name, xland.EXTRA)
    env, params = package.make(plain)
    params = params.replace(render_mode="rgb_array")
    return lambda axes, state: _image(axes, env.render(params, state))


def _navix(name: str, plain: str) -> Paint:
    rgb = jax.jit(load("navix", name, navix.EXTRA).observations.rgb)
    return lambda axes, state: _image(axes, rgb(state.state))


def _craftax(name: str, plain: str) -> Paint:
    kind = "craftax_classic" if "Classic" in plain else "craftax"
    renderer = load(f"craftax.{kind}.renderer", name, craftax.EXTRA)
    pixels = jax.jit(renderer.make_craftax_pixel_renderer(block_pixel_size=16))
    return lambda axes, state: _image(axes, np.asarray(pixels(state)) / 255)


def _jumanji(name: str, plain: str) -> Paint:
    env = load("jumanji", name, jumanji.EXTRA).make(plain)
    viewer: Any = getattr(env, "_viewer", None)
    if not hasattr(viewer, "_display_rgb_array"):
        raise SettingError("environment", name, "cannot be drawn: jumanji has no image of it")
    viewer._display = viewer._display_rgb_array

    def paint(axes: Axes, state: Any) -> None:
        _image(axes, viewer.render(state.state)[..., :3])

    return paint


def _playground(name: str, plain: str) -> Paint:
    task = load("mujoco_playground", name, playground.EXTRA).registry.load(plain, config_overrides={"impl": "jax"})
    return _from_the_side(task.mj_model, lambda state: state.state.data.qpos)


def _brax(name: str, plain: str) -> Paint:
    task = load("brax.envs", name, brax.EXTRA).get_environment(plain)
    return _from_the_side(task.sys.mj_model, lambda state: state.brax.pipeline_state.q)


FAMILIES: dict[str, Callable[[str, str], Paint]] = {
    "xland": _xland,
    "navix": _navix,
    "craftax": _craftax,
    "jumanji": _jumanji,
    "playground": _playground,
    "brax": _brax,
}


def _image(axes: Axes, pixels: Any) -> None:
    axes.imshow(np.asarray(pixels))


def _from_the_side(model: Any, positions: Callable[[Any], Any]) -> Paint:
    """Capsules, spheres and boxes of a MuJoCo model, x against z; the floor is a line."""
    mujoco = load("mujoco", "brax/ and playground/", "brax")
    data, kinds = mujoco.MjData(model), mujoco.mjtGeom

    def paint(axes: Axes, state: Any) -> None:
        data.qpos[:] = np.asarray(positions(state))
        mujoco.mj_kinematics(model, data)
        middle = data.xpos[1:, 0].mean() if model.nbody > 1 else 0.0
        reach = max(1.5, 1.2 * np.ptp(data.geom_xpos[:, 2]))
        axes.set(
            xlim=(middle - reach, middle + reach), ylim=(min(-0.2, data.geom_xpos[:, 2].min() - 0.2), 2 * reach - 0.2)
        )
        axes.axhline(0, color="#999999", linewidth=1, zorder=0)
        for x in range(int(np.floor(middle - reach)), int(np.ceil(middle + reach)) + 1):
            axes.plot([x, x], [-0.06, 0], color="#999999", linewidth=1, zorder=0)
        for i in range(model.ngeom):
            kind = kinds(int(model.geom_type[i]))
            place, turn, size = data.geom_xpos[i], data.geom_xmat[i].reshape(3, 3), model.geom_size[i]
            colour = "#0072b2" if kind == kinds.mjGEOM_BOX else "#e69f00"
            if kind in (kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER):
                _rod(axes, place, turn[:, 2] * size[1], size[0], colour)
            elif kind == kinds.mjGEOM_SPHERE:
                axes.add_patch(Circle((place[0], place[2]), size[0], color=colour))
            elif kind == kinds.mjGEOM_BOX:
                along, up = turn[:, 0] * size[0], turn[:, 2] * size[2]
                corners = [place + a * along + b * up for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
                axes.add_patch(Polygon([(c[0], c[2]) for c in corners], color=colour))

    return paint


def _rod(axes: Axes, place: np.ndarray, half: np.ndarray, radius: float, colour: str) -> None:
    """A capsule: a rectangle and its two ends."""
    start, end = (place - half)[[0, 2]], (place + half)[[0, 2]]
    along = end - start
    across = radius * np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)
    axes.add_patch(Polygon([start + across, end + across, end - across, start - across], facecolor=colour, linewidth=0))
    for at in (start, end):
        axes.add_patch(Circle(tuple(at), radius, facecolor=colour, linewidth=0))
