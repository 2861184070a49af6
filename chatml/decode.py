"""Tokens back to what was said: the turns between control tokens, as text."""

from collections.abc import Sequence
from typing import Any

from chatml.tokens import control


def read_back(ids: Sequence[int], tokenizer: Any) -> list[dict[str, str]]:
    """[{"role", "content"}] of ChatML token ids, each turn's content as it was written (tools in their written form).

    What stands between turns is left out; a last turn may lack its end. Text that spells a control token is text.
    """
    marks = control(tokenizer)
    turns: list[list[int]] = []
    inside = False
    for token in ids:
        if token == marks.im_start:
            turns.append([])
            inside = True
        elif token == marks.im_end:
            inside = False
        elif inside:
            turns[-1].append(token)
    said = (tokenizer.decode(turn, skip_special_tokens=False).partition("\n") for turn in turns)
    return [{"role": role, "content": content} for role, _, content in said]
