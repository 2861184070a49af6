"""Learning-rate schedules as functions of the step only, so that a checkpoint needs no scheduler state."""

import math

from ppo.choices import Schedule


def learning_rate_factor(kind: Schedule, step: int, total: int, warmup: int) -> float:
    """Return the factor of the peak learning rate at `step` of `total`, counted from 1.

    It rises linearly to 1 over the first `warmup` steps. Then it stays 1 ("constant") or decays to 0 at step `total` +
    1, linearly or along a half cosine.
    """
    if step <= warmup:
        return step / warmup
    if kind == "constant":
        return 1.0
    progress = (step - 1 - warmup) / (total - warmup)
    return 1 - progress if kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
