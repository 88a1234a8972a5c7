"""What is seen of a run: figures, tables, progress, GIFs."""
