"""What is asked of a run: flags, files, defaults, and whether they go together.

A flag is parsed in `command_line`, compared with its field's type and range in `checks`, with the method and the other
flags in `build`, and refused in `idle` where it would do nothing. What Python users can get wrong too is checked
further down: `pgjax.config`, `pgjax.methods.hyperparameters`, `pgjax.training.checks`.
"""
