"""What is seen of a run: figures, intervals, progress."""
