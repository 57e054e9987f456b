"""The figures, one a module: each draws a matplotlib figure from tables (and, for sample images, from prepared data)."""
