"""Pretraining text for the "pretrained gradient" that limits the alignment tax (report, 3.2.2).

The report asks for much more pretraining data than PPO data and states no ratio; ours is tokens to tokens. Rows come
from an endless shuffled stream, whose position is part of a checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch

from engine.data.order import shuffled_positions


class PretrainStream:
    """An endless stream of pretraining rows; its order depends on the seed and the position only."""

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int, ratio: float):
        self.rows, self.seed, self.ratio, self.position = rows, seed, ratio, 0

    def take(self, tokens: int) -> tuple[list[list[int]], int]:
        """Return the next texts (token ids) for `tokens` response tokens, and the number of tokens they predict.

        They predict at least `ratio * tokens` tokens; a text of n tokens predicts n - 1. Every rank gets the texts of
        all ranks and must take its share.
        """
        texts: list[list[int]] = []
        predicted = 0
        while predicted < self.ratio * tokens:
            (index,) = shuffled_positions(self.seed, len(self.rows), self.position, 1)
            texts.append(self.rows[index]["input_ids"])
            predicted += len(texts[-1]) - 1
            self.position += 1
        return texts, predicted

    def state_dict(self) -> dict[str, Any]:
        return {"position": torch.tensor(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])
