"""Means over the tokens of a step's updates, without a device synchronisation inside the loops."""

from collections import defaultdict

import torch
from accelerate import Accelerator


class TokenMeans:
    """Sums of metrics over a step's updates, kept on the device; reduced over ranks and divided once, at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._counts: dict[str, float] = defaultdict(float)

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add values of any shape to the metric `name`."""
        self._sums[name] = self._sums[name].to(values.device) + values.detach().double().sum()
        self._counts[name] += values.numel()

    def total(self, name: str) -> torch.Tensor:
        """Return this rank's sum so far, a float64 scalar on the device."""
        return self._sums[name]

    def reduce(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over all ranks by name (collective: every rank must call it)."""
        means = {}
        for name, total in self._sums.items():
            both = torch.stack([total.float(), torch.tensor(self._counts[name], device=total.device)])
            value, count = accelerator.reduce(both, "sum").tolist()
            means[name] = value / max(count, 1.0)
        return means
