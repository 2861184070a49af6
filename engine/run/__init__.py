"""The ground under a run: its folder, metrics, checkpoints and devices."""
