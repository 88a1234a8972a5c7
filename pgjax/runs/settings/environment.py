"""Makes the environment of some settings, after importing the module that registers it."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pgjax import environments
from pgjax.runs.settings.flags import Settings
from pgjax.types import Environment, SettingError


def environment_of(settings: Settings) -> Environment:
    """Make the environment. Call it after devices are chosen, because an imported module may start JAX."""
    import_module(settings.imports)
    return environments.make(settings.environment, randomise=ranges_of(settings.randomise))


def located(name: str) -> str:
    """A module's path as an absolute path; a module's name unchanged."""
    return str(Path(name).resolve()) if name.endswith(".py") else name


def import_module(name: str) -> None:
    """Import a module once per process, by name (also from the current folder) or by path NAME.py."""
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
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        raise SettingError("import", name, reason) from error
    if path is not None and Path(module.__file__ or "").resolve() != path:
        reason = f"cannot be imported: another module is called {path.stem} ({module.__file__}); rename the file"
        raise SettingError("import", name, reason)


def ranges_of(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Parse ranges NAME=LOW:HIGH, such as "length=0.3:1.2"."""
    ranges: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, bounds = text.partition("=")
        try:
            low, high = map(float, bounds.split(":"))
        except ValueError:
            raise SettingError("randomise", text, "must be NAME=LOW:HIGH, such as length=0.3:1.2") from None
        if name in ranges:
            raise SettingError("randomise", text, f"is a second range for {name}; leave one out")
        ranges[name] = low, high
    return ranges
