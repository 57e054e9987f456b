"""The formats of a run's files, each written and read in one module."""
