"""The environment that settings ask for: the module that registers it is imported first."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pgjax import environments
from pgjax.runs.settings.flags import Settings
from pgjax.types import Environment, SettingError


def environment_of(settings: Settings) -> Environment:
    """Make the environment; call after devices are chosen, since a module of somebody's own may start jax.

    Raises:
      SettingError: for a module that cannot be imported, an unknown environment, parameters that cannot be drawn.

    >>> environment_of(Settings(randomise=("length=0.3:1.2",))).parameters["gravity"]
    9.8
    """
    import_module(settings.imports)
    return environments.make(settings.environment, randomise=ranges_of(settings.randomise))


def located(name: str) -> str:
    """A module by its path as that path in full, so that it is found from any folder; by its name, as it is.

    >>> located("my_module"), Path(located("my_module.py")).is_absolute()
    ('my_module', True)
    """
    return str(Path(name).resolve()) if name.endswith(".py") else name


def import_module(name: str) -> None:
    """Import a module by its name, from the current folder too, or by its path NAME.py; once in a process.

    Raises:
      SettingError: naming the module and its error.

    >>> import_module("no_such_module")
    Traceback (most recent call last):
    pgjax.types.SettingError: import: 'no_such_module' cannot be imported: No module named 'no_such_module'
    """
    if not name:
        return
    path = Path(located(name)) if name.endswith(".py") else None
    folder = str(Path.cwd() if path is None else path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        module = importlib.import_module(name if path is None else path.stem)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise SettingError("import", name, f"cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # its code is somebody's own
        reason = f"cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        raise SettingError("import", name, reason) from error
    if path is not None and Path(module.__file__ or "").resolve() != path:
        reason = f"cannot be imported: another module is called {path.stem} ({module.__file__}); rename the file"
        raise SettingError("import", name, reason)


def ranges_of(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Ranges NAME=LOW:HIGH by name.

    Raises:
      SettingError: for what is no range, and a name that is given twice.

    >>> ranges_of(["length=0.3:1.2"])
    {'length': (0.3, 1.2)}
    """
    ranges: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, bounds = text.partition("=")
        try:
            low, high = map(float, bounds.split(":"))
        except ValueError:
            raise SettingError("randomise", text, "must be NAME=LOW:HIGH, such as length=0.3:1.2") from None
        if name in ranges:
            raise SettingError("randomise", text, f"gives {name} a second range")
        ranges[name] = low, high
    return ranges
