"""Plan how much memory a run needs and how long it takes, before any weights are loaded."""
