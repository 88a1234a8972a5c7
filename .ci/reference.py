"""Builds the API reference into build/docs with pdoc; a warning ends it. To search it, open build/docs/index.html."""

import inspect
import re
import warnings
from pathlib import Path

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

import pdoc

warnings.simplefilter("error", UserWarning)
pdoc.render.configure(docformat="google", footer_text="pgjax")
pdoc.pdoc("pgjax", output_directory=FOLDER)
print(f"wrote {FOLDER / 'index.html'}")
