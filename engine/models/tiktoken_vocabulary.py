"""Read the first Qwen's vocabulary, `qwen.tiktoken`, as a fast tokenizer: 151,643 byte sequences, 208 control tokens.

Its models (Qwen-7B, Qwen-14B and their chat models of 2023) come with that file and custom code, but without a
`tokenizer.json`. Ids are the same as tiktoken's. Text that spells a control token is encoded as that token, as in every
transformers tokenizer; `chatml.encode` prevents that.
"""

import base64
from pathlib import Path

from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from chatml import END_OF_TEXT, IM_END, IM_START, TokenizerError

VOCABULARY_FILE = "qwen.tiktoken"
NUM_REGULAR_TOKENS = 151_643
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
# The pattern of cl100k, but each digit is split off by itself.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_ranks(file: Path) -> dict[bytes, int]:
    """Read a tiktoken file as {token bytes: rank}; the rank is the id. Raises TokenizerError if it is not Qwen's."""
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError:
        ranks = {}
    if sorted(ranks.values()) != list(range(NUM_REGULAR_TOKENS)):
        raise TokenizerError(
            f"{file} does not list {NUM_REGULAR_TOKENS:,} tokens, as the first Qwen's {VOCABULARY_FILE} does; download "
            "it again"
        )
    return ranks


class Converter(TikTokenConverter):
    """transformers' converter, with the check of `read_ranks`."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        return read_ranks(Path(tiktoken_url))


def fast_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tiktoken file: text is NFC-normalised, split, and merged lowest rank first.

    The padding token is <|endoftext|>, which also ends documents, as in the published models.
    """
    backend = Converter(str(file), SPLIT_PATTERN, extra_special_tokens=CONTROL_TOKENS).converted()
    backend.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, name_or_path=str(file.parent)
    )
