"""Tokenizers made ready for ChatML. Loads no model, so that looking at data is quick."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from chatml import END_OF_TEXT, IM_END, IM_START, TokenizerError, chat_template, check_reads_back
from engine.errors import RunError, first_line


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `path` and add ChatML's tokens and template; RunError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no tokenizer at {path} ({first_line(error)}); give a model folder or a hub id") from None
    try:
        prepare_tokenizer(tokenizer)
    except TokenizerError as error:
        raise RunError(f"{path}: {error}") from None
    return tokenizer


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the ChatML tokens that are missing, and our template.

    Where there is no padding token, <|endoftext|> becomes it, as in Qwen's tokenizers. Raises TokenizerError where
    conversations cannot be written with the tokenizer.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in (END_OF_TEXT, IM_START, IM_END) if t not in known], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = END_OF_TEXT
    check_reads_back(tokenizer)
    tokenizer.chat_template = chat_template(tokenizer)
