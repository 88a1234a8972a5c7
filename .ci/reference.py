"""Builds the API reference into build/docs with pdoc; a warning ends it. To search it, open build/docs/index.html."""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

FOLDER = Path(__file__).resolve().parents[1] / "build" / "docs"
NAMES = {  # of annotations as Python prints them: as they are written
    repr(ArrayLike).partition("[")[2].removesuffix("]"): "ArrayLike",
    f"{Array.__module__}.{Array.__qualname__}": "Array",
    "jax.jaxlib._jax.Array": "Array",
    "jaxlib._jax.Array": "Array",
    "collections.abc.": "",
    "NoneType": "None",
}
printed = inspect.formatannotation


def as_written(*arguments, **options):
    """An annotation's text with the names that users write."""
    text = printed(*arguments, **options).replace("typing.", "")
    for name, short in NAMES.items():
        text = text.replace(name, short)
    return re.sub(r"Union\[ArrayLike(?:, (None))?\]", lambda found: "ArrayLike" + " | None" * bool(found[1]), text)


inspect.formatannotation = as_written  # signatures and pdoc both call it

import pdoc  # noqa: E402 (after that)

import pgjax  # noqa: E402


def describe_fields(kind):
    """Give the fields of a NamedTuple the comments behind them in its source, instead of "Alias for field number 0"."""
    found = re.findall(r"^    (\w+): [^#\n]+?(?:  # (.+))?$", inspect.getsource(kind), re.MULTILINE)
    comments = {name: comment for name, comment in found if name in kind._fields}
    for name in kind._fields:
        if not isinstance(getattr(kind, name), property):
            getattr(kind, name).__doc__ = comments.get(name, "")
    kind.__new__.__doc__ = ""


for folder in (pgjax.estimators, pgjax.methods, pgjax.policies, pgjax.training):
    for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        importlib.import_module(module.name)
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == pgjax.__name__:
        for thing in vars(module).copy().values():
            if isinstance(thing, type) and NamedTuple in getattr(thing, "__orig_bases__", ()):
                describe_fields(thing)

warnings.simplefilter("error", UserWarning)
pdoc.render.configure(docformat="google", footer_text=f"pgjax {pgjax.__version__}")
pdoc.pdoc("pgjax", output_directory=FOLDER)
print(f"wrote {FOLDER / 'index.html'}")
