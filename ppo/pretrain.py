"""Pretraining text beside the rollouts: the "pretrained gradient" against the alignment tax (report, 3.2.2).

The report wants much more pretraining data than PPO data; `ratio` is tokens to tokens. Rows come from an endless
shuffled stream; its position is saved with the run.
"""

from collections.abc import Sequence
from typing import Any

import torch

from engine.data.order import stream


class PretrainStream:
    """Rows of pretraining text in an order that is a function of seed and position."""

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int, ratio: float):
        self.rows, self.seed, self.ratio, self.position = rows, seed, ratio, 0

    def take(self, tokens: int) -> tuple[list[list[int]], int]:
        """Return the next texts, at least `ratio` times `tokens` predicted tokens, and how many tokens they predict.

        These are the texts of all ranks together: every rank gets the same ones and must take its share.
        """
        texts: list[list[int]] = []
        predicted = 0
        while predicted < self.ratio * tokens:
            (index,) = stream(self.seed, len(self.rows), self.position, 1)
            texts.append(self.rows[index]["input_ids"])
            predicted += len(texts[-1]) - 1
            self.position += 1
        return texts, predicted

    def state_dict(self) -> dict[str, Any]:
        return {"position": torch.tensor(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])
