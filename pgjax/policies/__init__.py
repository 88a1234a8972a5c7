"""Build agents from networks."""
