"""Settings, run directories, progress display and figures for scripts.

`experiments/` and the notebooks use these modules. The core of pgjax does not import them.
"""
