"""Around a run: its lock, the snapshot that jobs start from, devices, the cluster."""
