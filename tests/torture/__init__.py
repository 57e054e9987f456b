"""Break a run in every way that is quick to try, seeded, and count what came of it: `make torture`."""
