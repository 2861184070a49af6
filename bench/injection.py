"""Test the encoder with random text: no text may become a control token, and every text must decode to itself.

    .venv/bin/python -m bench.injection [FOLDER ...] [--strings N] [--seed N]

FOLDER is the folder of a tokenizer; by default all tokenizers that `tests.support.fetch` has cached. Each string is one
turn of a conversation. It combines spellings of the tokenizer's added tokens, parts of them, look-alikes, invisible
characters, text that NFC changes, and random Unicode characters. Characters that the tokenizer cannot encode are left
out. The exit code is 1 if a string fails; the first six failures of each kind are printed.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from chatml import control, plain_encoder
from chatml.encode import encode_turns, join
from chatml.forms import read_messages
from chatml.tokens import PlainEncoder
from chatml.tools import render

ROLES = ("system", "user", "assistant")
SPELLINGS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>system\n",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<s>", "</s>",
    "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>",
    "<unk>", "<pad>", "<0x0A>", "<|extra_0|>", "[INST]", "<<SYS>>",
)  # fmt: skip
LOOKALIKES = (
    "＜|im_end|＞", "<｜im_end｜>", "<|im\u200b_end|>", "<|im_\ufeffend|>", "<|IM_END|>", "<|im_end|\u0338>",
    "\u02c2|im_end|\u02c3", "<|i\u0301m_end|>", "\uff1cthink\uff1e", "<|im_\u00adend|>", "<|im_end\u2060|>",
    "<\u200d|im_start|>",
)  # fmt: skip
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u061c\u180e\u2066\u2069\ufe0f\x00\x07\x1b\x7f\x85\u2028\u2029"
# Text that NFC composes, reorders or replaces.
CHANGED_BY_NFC = (
    "e\u0301", "\u212b", "\u2126", "q\u0307\u0323", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u0344", "\u0958", "\u2adc",
    "\ufb1d", "\u0340",
)  # fmt: skip
WORDS = (
    "Hello", " world", "user\n", "assistant", "system", "\n", "\n\n", "\r\n", " ", "   ", "\t", "12", " 3.14", "今天",
    "👩\u200d🚀", "\nThought:", "\nObservation:", "'s", "مرحبا", "▁", "{\"a\": 1}", "print(", "İ", "ﬁ",
)  # fmt: skip
STRINGS_PER_BATCH = 1000
"""strings drawn from the same pools"""


class BatchResult(NamedTuple):
    strings: int
    injected: list[str]
    """strings of conversations that contain an added token besides ChatML's own"""
    changed: list[str]
    """strings of conversations that do not decode to their normalised text"""


def random_texts(names: list[str], seed: int, batch: int) -> list[str]:
    """Return STRINGS_PER_BATCH strings, which depend only on the added tokens `names`, the seed and `batch`."""
    rng = random.Random(f"{seed} {batch}")
    spelt = [*SPELLINGS, *rng.choices(names, k=60)]
    cut = [name[at:] for name in spelt for at in (1, 2)] + [name[:-at] for name in spelt for at in (1, 2)]
    unicode = [chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(200)]
    pools = [spelt, spelt, cut, LOOKALIKES, INVISIBLE, CHANGED_BY_NFC, WORDS, WORDS, unicode]
    return ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 10))) for _ in range(STRINGS_PER_BATCH)]


def try_strings(tokenizer: Any, seed: int, strings: int) -> Iterator[BatchResult]:
    """Encode and decode `strings` random strings and yield the result of each batch.

    The tokenizer must have the ChatML tokens, as after `load_tokenizer`.
    """
    backend, ids = tokenizer.backend_tokenizer, control(tokenizer)
    known = {i: token.content for i, token in backend.get_added_tokens_decoder().items()}
    never = known.keys() - ids.text
    names, normalised = sorted(known[i] for i in never), normaliser(backend)
    begin, encoder = [] if ids.bos is None else [ids.bos], plain_encoder(tokenizer)
    for batch in range(-(-strings // STRINGS_PER_BATCH)):
        injected, changed = [], []
        left = strings - batch * STRINGS_PER_BATCH
        texts = [encodable(text, encoder) for text in random_texts(names, seed, batch)[:left]]
        conversations = [
            list(zip(ROLES, texts[at : at + len(ROLES)], strict=False)) for at in range(0, len(texts), len(ROLES))
        ]
        rendered = (
            render(read_messages([{"role": role, "content": text} for role, text in turns], "messages"), (), "hermes")
            for turns in conversations
        )
        tokens = [join(turns, tokenizer).input_ids for turns in encode_turns(rendered, tokenizer, "assistant")]
        decoded = backend.decode_batch(tokens, skip_special_tokens=False)
        for turns, found, read in zip(conversations, tokens, decoded, strict=True):
            if [i for i in found if i in never] != [*begin, *[ids.im_start, ids.im_end] * len(turns)]:
                injected += [text for _, text in turns]
            whole = "".join(f"<|im_start|>{role}\n{normalised(text)}<|im_end|>\n" for role, text in turns)
            if read != "".join(known[i] for i in begin) + whole:
                changed += [text for _, text in turns]
        yield BatchResult(len(texts), injected, changed)


def normaliser(backend: Tokenizer) -> Callable[[str], str]:
    """Return the text that decoding should give: the tokenizer's normalisation, for example NFC.

    SentencePiece encodes a space as "▁" and decodes both as a space.
    """
    normalise = backend.normalizer.normalize_str if backend.normalizer is not None else str
    if backend.decoder.decode(["▁"]) != " ":
        return normalise
    return lambda text: normalise(text).replace("▁", " ")


def encodable(text: str, encoder: PlainEncoder) -> str:
    """Return the text without the characters that the tokenizer cannot encode, which would be an error."""
    lost = encoder.lost(text)
    return "".join(character for character in text if character not in lost) if lost else text


def default_folders() -> list[Path]:
    """Return the tokenizer folders that `tests.support.fetch` has cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plumbline"
    return sorted(path for path in (*cache.glob("tokenizers/*"), *cache.glob("smollm2-*")) if path.is_dir())


def main(folders: list[Path], strings: int, seed: int) -> int:
    """Test `strings` strings on each tokenizer, print a line for each, and return the exit code."""
    from engine.models.tokenizer import load_tokenizer

    print(f"seed {seed}, {strings:,} strings per tokenizer", flush=True)
    failed = False
    for folder in folders:
        tokenizer = load_tokenizer(str(folder))
        started, spoke, done = time.monotonic(), time.monotonic(), 0
        injected: list[str] = []
        changed: list[str] = []
        for found in try_strings(tokenizer, seed, strings):
            done += found.strings
            injected += found.injected
            changed += found.changed
            if time.monotonic() - spoke > 10:
                spoke = time.monotonic()
                left = (spoke - started) / done * (strings - done)
                print(f"{folder.name}: {done:,} of {strings:,}, {left:.0f} s left", flush=True)
        seconds = time.monotonic() - started
        print(f"{folder.name}: {done:,} strings, {len(injected)} injected, {len(changed)} changed, {seconds:.0f} s")
        for kind, bad in (("injected", injected), ("changed", changed)):
            for text in bad[:6]:
                print(f"  {kind}: {text!r}")
            failed |= bool(bad)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.injection", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="tokenizers; default: the fetched ones")
    arguments = parser.parse_args()
    folders = arguments.folders or default_folders()
    if not folders:
        parser.error("no tokenizer found; fetch some with: .venv/bin/python -m tests.support.fetch")
    sys.exit(main(folders, strings=1_000_000, seed=0))
