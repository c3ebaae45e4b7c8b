"""One module per benchmark: `add_arguments(parser)`, `run(args) -> dict`, and a docstring that is its help."""
