"""Settings of a run: command-line flags, TOML files, defaults and their checks.

`command_line` parses flags, `checks` tests types and ranges, `build` checks combinations with the method, and `idle`
rejects settings that would do nothing. Checks that Python callers need too are in `pgjax.config`,
`pgjax.methods.hyperparameters` and `pgjax.training.checks`.
"""
