"""Settings, run directories, progress display and figures for scripts. Loading a run or a policy imports them too."""
