"""Networks in, agents out."""
