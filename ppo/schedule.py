"""Learning rates as a function of the step alone, so that a resumed run needs no state for them."""

import math

from ppo.choices import Schedule


def learning_rate_factor(kind: Schedule, step: int, total: int, warmup: int) -> float:
    """Return the factor of the learning rate at `step` of `total`, counted from 1.

    It rises in equal parts over the first `warmup` steps, then stays, or falls to 0 after the last step, in equal parts
    or along half a cosine.
    """
    if step <= warmup:
        return step / warmup
    if kind == "constant":
        return 1.0
    gone = (step - 1 - warmup) / (total - warmup)
    return 1 - gone if kind == "linear" else (1 + math.cos(math.pi * gone)) / 2
