"""One lifecycle of a run: folder, steps, checkpoints, metrics, console, launch, hub."""
