"""What is asked of a run: flags, files, defaults, and whether they go together."""
