"""Tokenizers made ready for ChatML. Loads no model, so that looking at data is quick."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from chatml import END_OF_TEXT, IM_END, IM_START, TokenizerError, chat_template, check_reads_back
from engine.errors import RunError, first_line
from engine.models import tiktoken_vocabulary


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `path` and add ChatML's tokens and template; RunError if there is none."""
    tokenizer = published_tokenizer(path, revision)
    prepare_tokenizer(tokenizer)
    return tokenizer


def published_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `path` as it was saved, its own chat template included; RunError if there is none.

    The first Qwen's `qwen.tiktoken` is read where there is no `tokenizer.json`.
    """
    try:
        if (file := first_qwen(path, revision)) is not None:
            return tiktoken_vocabulary.fast_tokenizer(file)
        return AutoTokenizer.from_pretrained(path, revision=revision)
    except TokenizerError as error:
        raise RunError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"no tokenizer at {path} ({first_line(error)}); give a model folder or a hub id") from None


def first_qwen(path: str, revision: str | None) -> Path | None:
    """Return the file of the first Qwen's vocabulary, where a model has that one alone."""
    for name in ("tokenizer.json", tiktoken_vocabulary.FILE):
        found = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            return Path(found) if name == tiktoken_vocabulary.FILE else None
    return None


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the ChatML tokens that are missing, and our template.

    Where there is no padding token, <|endoftext|> becomes it, as in Qwen's tokenizers. RunError for a tokenizer that
    ChatML cannot be written with.
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
