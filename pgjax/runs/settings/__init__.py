"""Settings of a run: `command_line` parses flags, `config_file` TOML files, `checks` tests types and ranges, `build`
checks combinations with the method, and `idle` rejects settings that would do nothing.
"""
