"""What is kept of a run: checkpoints, metrics, logs, and where they lie on the disk."""
