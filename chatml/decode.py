"""Decode ChatML tokens to turns of text."""

from collections.abc import Sequence
from typing import Any

from chatml.encode import encode
from chatml.messages import RecordError
from chatml.tokens import TokenizerError, control

# A tokenizer must preserve line breaks, spaces at the edges of a text, and several spaces in a row.
_PROBE = (("system", "  Hi\n\nthere  "), ("user", "a b\n"), ("assistant", " c"))


def read_back(ids: Sequence[int], tokenizer: Any) -> list[dict[str, str]]:
    """Return ChatML token ids as [{"role", "content"}], one per turn; tool calls and results stay in rendered form.

    Tokens outside turns are ignored, and the last turn may lack its <|im_end|>. Text that spells a control token
    stays text.
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
    decoded = (tokenizer.decode(turn, skip_special_tokens=False).partition("\n") for turn in turns)
    # The tokenizer may have put a space before the role (`chatml.prefix`).
    return [{"role": role.strip(" "), "content": content} for role, _, content in decoded]


def check_reads_back(tokenizer: Any) -> None:
    """Raise TokenizerError if a short test conversation changes when it is encoded and decoded."""
    written = [{"role": role, "content": text} for role, text in _PROBE]
    try:
        read = read_back(encode(written, tokenizer).input_ids, tokenizer)
    except RecordError as error:
        raise TokenizerError(f"this tokenizer cannot encode ChatML: {error}") from None
    lost = next((turn for turn in written if turn not in read), None)
    if lost is not None:
        raise TokenizerError(
            f"the tokenizer does not preserve the text of {lost}: it decodes to {read}; ChatML needs spaces and line "
            "breaks unchanged: use a model with a byte-level tokenizer"
        )
