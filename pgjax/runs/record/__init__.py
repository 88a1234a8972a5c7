"""Files of a run directory: checkpoints, metrics, evaluations and logs."""
