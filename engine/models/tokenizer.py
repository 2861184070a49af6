"""Load tokenizers and prepare them for ChatML. Nothing here loads a model, so that data can be inspected quickly."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from chatml import END_OF_TEXT, IM_END, IM_START, TokenizerError, chat_template, check_reads_back
from engine.compat import cached_file_or_none
from engine.errors import RunError, first_line
from engine.models import tiktoken_vocabulary


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `path` and add ChatML's tokens and template; raise RunError if there is none."""
    tokenizer = published_tokenizer(path, revision)
    prepare_tokenizer(tokenizer)
    return tokenizer


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of a sequence of token ids, control tokens included."""
    return cast(str, tokenizer.decode(list(ids)))  # a list of texts only for a list of sequences


def published_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `path` as it was saved, with its own chat template; raise RunError if there is none.

    Reads the first Qwen's `qwen.tiktoken` if there is no `tokenizer.json`.
    """
    try:
        if (file := find_tiktoken_file(path, revision)) is not None:
            return tiktoken_vocabulary.fast_tokenizer(file)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        if set(tokenizer.get_vocab()) <= {token.content for token in tokenizer.added_tokens_decoder.values()}:
            # transformers made this tokenizer up from the model's configuration.
            raise OSError("it has no tokenizer files")
        return tokenizer
    except TokenizerError as error:
        raise RunError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"no tokenizer at {path} ({first_line(error)}); give a model folder or a hub id") from None


def find_tiktoken_file(path: str, revision: str | None) -> Path | None:
    """Return the path of the first Qwen's vocabulary file; None if there is a tokenizer.json, or neither."""
    for name in ("tokenizer.json", tiktoken_vocabulary.VOCABULARY_FILE):
        found = cached_file_or_none(path, name, revision)
        if found is not None:
            return Path(found) if name == tiktoken_vocabulary.VOCABULARY_FILE else None
    return None


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add missing ChatML tokens and our chat template to a tokenizer, in place.

    If it has no padding token, <|endoftext|> becomes that, as in Qwen's tokenizers. Raises RunError for a tokenizer
    that cannot encode ChatML.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in (END_OF_TEXT, IM_START, IM_END) if t not in known], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = END_OF_TEXT
    try:
        check_reads_back(tokenizer)
        tokenizer.chat_template = chat_template(tokenizer)
    except TokenizerError as error:
        raise RunError(f"{tokenizer.name_or_path}: {error}") from None
