"""Small fast tokenizers for tests, of the kinds that base models use; each is trained once per process."""

import json
from functools import lru_cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from chatml.tokens import TOOL_MARKERS
from tiny.tokenizer import train_tokenizer

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen's pre-tokenizer pattern: every digit is split off.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Text whose merges resemble those of real tokenizers: roles, letters of control tokens, tools, newlines.
CORPUS = [
    "system user assistant tool Hello! How can I assist you today? You are a helpful assistant.",
    "im_start im_end endoftext begin_of_text eot_id tool_call tool_response |im_end| <|im_end|>\n<|im_start|>user\n",
    'Thought: I now know the final answer.\nFinal Answer: 7\nAction: add\nAction Input: {"a": 3}\nObservation: 7',
    '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>\n\n# Tools\n\nYou may call functions',
    "The quick brown fox jumps over the lazy dog; naïve café, 今天天气很好，你好！ three plus four is seven.\n\n\n",
] * 4


def _trained(normalizer: normalizers.Normalizer | None, vocab_size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


@lru_cache
def qwen() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Qwen2.5's: control tokens, added tokens that are not special, NFC."""
    backend = _trained(normalizers.NFC(), 420)
    backend.add_special_tokens(_special(*CHATML))
    plain = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_middle|>")
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@lru_cache
def llama(*, chatml: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 3's, with or without ChatML tokens: a BOS before every text, no normaliser."""
    backend = _trained(None, 400)
    backend.add_special_tokens(
        _special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", *(CHATML if chatml else ()))
    )
    bos = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


@lru_cache
def merged() -> PreTrainedTokenizerFast:
    """Return the worst case for injection: no pre-tokenization, and merges that produce the control tokens' names.

    The merges end in the ids that are then declared added tokens. The same holds for a plain word, `answer`.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([name for name in (*CHATML, "answer") for _ in range(50)], trainer)
    before = backend.get_vocab_size()
    backend.add_special_tokens(_special(*CHATML, "answer"))
    assert backend.get_vocab_size() == before, "the names must already be in the model's vocabulary"
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@lru_cache
def words() -> PreTrainedTokenizerFast:
    """Return a model of a few words; every other word becomes its unknown token, which is an added token."""
    vocabulary = {"[UNK]": 0, "user": 1, "Hi": 2, "assistant": 3, "\n": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s"), behavior="isolated")
    backend.add_special_tokens(_special("[UNK]", *CHATML))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@lru_cache
def tiny_world() -> PreTrainedTokenizerFast:
    """Return the tiny world's tokenizer, with NFC."""
    return train_tokenizer(CORPUS)


@lru_cache
def compatible() -> PreTrainedTokenizerFast:
    """Return a tokenizer with all tool markers as tokens, matched after NFKC has turned look-alikes into ASCII."""
    backend = _trained(normalizers.NFKC(), 400)
    backend.add_tokens([AddedToken(name, special=False, normalized=True) for name in (*CHATML, *TOOL_MARKERS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@lru_cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 2's: spaces become ▁, unknown characters bytes; control tokens are in the model."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = spaces
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    backend = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = spaces
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(_special("<unk>", "<s>", "</s>", *CHATML))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


ALL = (qwen, llama, merged)
"""tokenizers for tests of layout and masks"""
EVERY = (*ALL, tiny_world, compatible, sentencepiece)
"""tokenizers for tests of injection"""
