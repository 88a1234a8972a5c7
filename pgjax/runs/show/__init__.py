"""Display of runs: figures, intervals, progress and help texts."""
