"""An evaluation's models and tokenizers: loaded one at a time, and known by what their files were when it began."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.sections import Compute
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.models.adapters import base_of, is_adapter
from engine.models.loading import load_causal, load_config, load_scalar
from engine.models.tokenizer import load_tokenizer
from eval.subjects import LocalModel

Load = Callable[[], PreTrainedModel]
"""returns a model, loading it at the first call: where all its work is done already, it is never loaded"""


class Models:
    """Loads what a recipe names, each in `compute`'s type; subjects with equal vocabularies share one tokenizer."""

    def __init__(self, compute: Compute, main: LocalModel) -> None:
        self.compute, self.device = compute, default_device()
        self._by_path: dict[tuple[str, str | None], PreTrainedTokenizerBase] = {}
        self._by_vocabulary: dict[str, PreTrainedTokenizerBase] = {}
        self.main_tokenizer = self.tokenizer_of(main)
        """the one that reads prompts and comparisons"""

    def tokenizer_at(self, path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
        """The tokenizer of a model, made ready for ChatML: the same object for equal vocabularies."""
        if (path, revision) not in self._by_path:
            own = path if not is_adapter(path) or (Path(path) / "tokenizer_config.json").exists() else base_of(path)
            loaded = load_tokenizer(own, revision)
            self._by_path[path, revision] = self._by_vocabulary.setdefault(vocabulary(loaded), loaded)
        return self._by_path[path, revision]

    def tokenizer_of(self, subject: LocalModel) -> PreTrainedTokenizerBase:
        return self.tokenizer_at(subject.path, subject.revision)

    def causal(self, subject: LocalModel) -> PreTrainedModel:
        """A subject's frozen causal LM."""
        model = replace(self.compute.model(subject.path), revision=subject.revision)
        return load_causal(subject.path, model, self.tokenizer_of(subject), trained=False, device=self.device)

    def scalar(self, path: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """A frozen reward model. RunError where it reads its score at another token than `tokenizer`'s <|im_end|>."""
        model = load_scalar(path, self.compute.model(path), tokenizer, trained=False, device=self.device)
        if model.config.score_token_id != control(tokenizer).im_end:
            raise RunError(
                f"{path} reads its score at another token than the <|im_end|> of {tokenizer.name_or_path}; "
                "both must come from the same base"
            )
        return model

    def context(self, path: str, revision: str | None = None) -> int | None:
        """Tokens that a model can read at once; None where its configuration does not say."""
        model = replace(self.compute.model(path), revision=revision)
        return getattr(load_config(base_of(path), model).get_text_config(), "max_position_embeddings", None)

    def identity(self, path: str, revision: str | None = None) -> list[Any]:
        """What decides a model's figures, besides what it is asked."""
        return [path, revision, files_of(path), files_of(base_of(path)), asdict(self.compute)]


def files_of(path: str) -> str:
    """A hash of names, sizes and times of a file or of a folder's files; "" for what is not here (a hub id)."""
    place = Path(path)
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if facts else ""


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash that is equal for tokenizers that make the same tokens of every conversation."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    splitting = {name: backend[name] for name in ("model", "normalizer", "pre_tokenizer")}
    ids = control(tokenizer)
    known = [sorted(tokenizer.get_vocab().items()), ids.bos, ids.im_start, ids.im_end, sorted(ids.markers.items())]
    return hashlib.sha256(json.dumps([splitting, known], default=str).encode()).hexdigest()
