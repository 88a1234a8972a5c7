"""Code that one or two experiment scripts use and the package does not need."""
