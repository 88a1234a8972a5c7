"""A progress bar: that of sweeps, which the main job shows too."""

from pgjax.sweeps.progress import ProgressBar as ProgressBar
from pgjax.sweeps.progress import last_return as last_return
from pgjax.sweeps.progress import progress_bar as progress_bar
