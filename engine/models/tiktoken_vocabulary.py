"""The first Qwen's vocabulary, `qwen.tiktoken`, as a fast tokenizer: 151,643 byte sequences and 208 control tokens.

Its models (Qwen-7B, Qwen-14B and their chat models of 2023) come with that file and with code of their own, but without
a `tokenizer.json`. Ids are those of tiktoken. Text that spells a control token becomes it, as with every tokenizer of
transformers; `chatml.encode` prevents that.
"""

import base64
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from chatml import END_OF_TEXT, IM_END, IM_START, TokenizerError

FILE = "qwen.tiktoken"
REGULAR = 151_643
CONTROL = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)))
# cl100k's pattern, with one digit a piece.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_ranks(file: Path) -> dict[bytes, int]:
    """Read a tiktoken file: token -> rank, which is its id. TokenizerError if it is not the first Qwen's."""
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError:
        ranks = {}
    if sorted(ranks.values()) != list(range(REGULAR)):
        raise TokenizerError(
            f"{file} does not list {REGULAR:,} tokens, as the first Qwen's {FILE} does; fetch it again"
        )
    return ranks


def fast_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tiktoken file: text is NFC-normalised, split, and merged lowest rank first.

    Padding is <|endoftext|>, which also ends documents, as the published models were trained.
    """
    ranks, letters = read_ranks(file), bytes_to_unicode()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    # tiktoken merges whichever two neighbours make a token, so every way to halve a token is a merge of its rank.
    merges = [
        (written[token[:at]], written[token[at:]])
        for token in sorted(ranks, key=ranks.__getitem__)
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, name_or_path=str(file.parent)
    )
