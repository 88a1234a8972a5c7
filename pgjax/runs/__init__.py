"""Settings, run directories, progress display and figures for scripts; the core of pgjax does not import them."""
