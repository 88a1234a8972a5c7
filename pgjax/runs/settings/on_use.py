"""Import a module when it is first used, not when it is imported."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class OnUse:
    """A finder, for sys.meta_path, that delays one module until its first attribute is read.

    gymnax imports seaborn, and with it pandas and scipy.stats, for the colours of one drawing: a second of each start.

    >>> sys.meta_path.insert(0, OnUse("colorsys"))
    >>> import colorsys
    >>> colorsys.rgb_to_hsv(1.0, 0.0, 0.0)
    (0.0, 1.0, 1.0)
    """

    def __init__(self, name: str) -> None:
        """Delay the module of this name, once."""
        self.name = name

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's own spec, with a loader that delays it; None for other modules."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
