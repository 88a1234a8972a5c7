"""What one or two of the scripts beside this folder need and the package does not."""
