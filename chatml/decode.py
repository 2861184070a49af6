"""Tokens back to what was said: the turns between control tokens, as text."""

from collections.abc import Sequence
from typing import Any

from chatml.encode import encode
from chatml.messages import RecordError
from chatml.tokens import TokenizerError, control

# What a tokenizer must keep for a conversation to be read back: line breaks, spaces at the edges and in a row.
_PROBE = (("system", "  Hi\n\nthere  "), ("user", "a b\n"), ("assistant", " c"))


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
    # A tokenizer may have put a space before the role (`chatml.prefix`).
    return [{"role": role.strip(" "), "content": content} for role, _, content in said]


def check_reads_back(tokenizer: Any) -> None:
    """Raise TokenizerError where a conversation does not come back as it was written: ChatML cannot be written then."""
    written = [{"role": role, "content": text} for role, text in _PROBE]
    try:
        read = read_back(encode(written, tokenizer).input_ids, tokenizer)
    except RecordError as error:
        raise TokenizerError(f"ChatML cannot be written with this tokenizer: {error}") from None
    lost = next((turn for turn in written if turn not in read), None)
    if lost is not None:
        raise TokenizerError(
            f"the tokenizer does not keep the text of {lost}: it reads back {read}; ChatML needs spaces and line "
            "breaks as they are: use a model with a byte-level tokenizer"
        )
