"""Load a checkpoint's weights into a model, and raise an error if the two do not match.

transformers initialises missing weights at random and ignores unknown ones, with a line in a log. Either way the model
is not the one that was saved. Here missing weights are errors, and so are unknown weights inside the model's layers.
"""

import copy
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, logging
from transformers.utils.hub import get_checkpoint_shard_files

from config.sections import Model
from engine.compat import cached_file_or_none
from engine.dist.ranks import is_main_process
from engine.errors import RunError, first_line
from engine.forward.attention import implementation_of
from engine.models.four_bits import four_bit_arguments
from engine.models.self_test import failure_of
from engine.models.self_test_reasons import short_error, way_out

# safetensors' names of half-precision dtypes.
HALF_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
# The start of a Git LFS pointer, the small file in place of one that was not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Errors of classes that do not support the requested attention implementation.
BUILD_ERRORS = (KeyError, AttributeError, TypeError, ValueError, NotImplementedError)
# Prefixes that wrappers add to a model's keys, with the wrapper.
WRAPPER_PREFIXES = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel or DeepSpeed",
    "base_model.model.": "peft",
    "_fsdp_wrapped_module.": "FSDP",
}
# Buffers that older versions of transformers stored; they are computed from the configuration.
COMPUTED_BUFFERS = re.compile(
    r"(rotary_emb\.(inv_freq|cos_cached|sin_cached)|\battn\.(masked_)?bias|\battention\.(masked_)?bias|position_ids)$"
)
# An error lists at most this many keys.
MAX_LISTED_KEYS = 3


def from_pretrained(
    model_class: type[PreTrainedModel],
    path: str,
    config: PretrainedConfig,
    model: Model,
    in_4bit: bool = False,
    dtype: torch.dtype = torch.float32,
    may_lack: Collection[str] = (),
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model of a given class; return it and the names of the `may_lack` weights that its checkpoint lacks.

    Args:
        path: a model folder or hub id, not an adapter.
        in_4bit: quantise linear layers; `dtype` then applies to the other weights.
        may_lack: names of weights that may be missing or have other shapes; they are initialised at random.

    Raises RunError for damaged files, for other weights that are missing or whose shapes do not match the
    configuration, and for weights inside the model's layers that its class does not use.
    """
    refuse_broken_files(path, model)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report every missing weight on a line of its own
    try:
        found: Any = model_class.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            revision=model.revision or "main",
            attn_implementation=implementation_of(model.attention),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and an error below
            **(four_bit_arguments(model) if in_4bit else {}),
        )
    except ImportError as error:
        if not in_4bit:
            raise RunError(f"{path}: {first_line(error)}") from None
        raise RunError(
            f"load_in_4bit=true: {first_line(error)}; install it with .venv/bin/pip install bitsandbytes, or leave "
            "load_in_4bit out"
        ) from None
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise RunError(f"the weights of {path} cannot be read ({first_line(error)}); download them again") from None
    except BUILD_ERRORS as error:
        raise RunError(
            f"{path}: {model_class.__name__} cannot be built under model.attention="
            f"{implementation_of(model.attention)} ({short_error(error)})"
            f"; {_way_to_build(model_class, path, config, model)}"
        ) from None
    except OSError as error:
        raise RunError(f"no weights at {path} ({first_line(error)}); give a model folder or a hub id") from None
    finally:
        logging.set_verbosity(level)
    loaded, report = found
    return loaded, check_report(path, loaded, report, may_lack)


def _way_to_build(model_class: type[PreTrainedModel], path: str, config: PretrainedConfig, model: Model) -> str:
    """Return what to do if a class cannot be built: use another attention, if one passes the self-test."""
    for other in ("sdpa", "eager"):
        try:
            loaded = model_class.from_pretrained(
                path, config=copy.deepcopy(config), revision=model.revision or "main", attn_implementation=other
            )
        except BUILD_ERRORS:
            continue
        if failure_of(loaded.train(), other) is None:
            return way_out(config, [other], scalar=not loaded.can_generate())
    return way_out(config, [])


def check_report(path: str, loaded: PreTrainedModel, report: dict[str, Any], may_lack: Collection[str]) -> list[str]:
    """Return the `may_lack` weights that are missing; RunError for every other mismatch that transformers reports."""
    foreign = {key for key in report["unexpected_keys"] if not COMPUTED_BUFFERS.search(key)}
    missing = {key for key in report["missing_keys"] if not COMPUTED_BUFFERS.search(key)}
    mismatched = sorted(entry for entry in report["mismatched_keys"] if entry[0] not in may_lack)
    lacking = missing - set(may_lack)
    if lacking:
        raise RunError(
            f"{path} lacks {_some(lacking)}, which would be initialised at random; {_cause(lacking, foreign)}"
        )
    if mismatched:
        key, stored, wanted = mismatched[0]
        raise RunError(
            f"{path}: {key} has the shape {list(stored)}, but config.json gives {list(wanted)}; check "
            "that config.json belongs to these weights"
        )
    inside = {key for key in foreign if _is_inside(loaded, key)}
    if inside:
        raise RunError(
            f"{path} has {_some(inside)}, which {type(loaded).__name__} does not use: the model would not "
            "compute what these weights were trained for; check that config.json belongs to them"
        )
    if foreign and loaded.can_generate() and is_main_process():  # a scalar model never uses the base's head
        print(f"warning: {path} has {_some(foreign)}, not part of {type(loaded).__name__}; ignored", file=sys.stderr)
    return sorted(missing)


def _some(keys: Collection[str]) -> str:
    listed = ", ".join(sorted(keys)[:MAX_LISTED_KEYS])
    return listed if len(keys) <= MAX_LISTED_KEYS else f"{listed} and {len(keys) - MAX_LISTED_KEYS} more weights"


def _cause(lacking: set[str], foreign: set[str]) -> str:
    """Return the likely cause of missing weights, and what to do about it."""
    starts = Counter(
        key[: len(key) - len(name)] for key in foreign for name in lacking if key != name and key.endswith("." + name)
    )
    if not starts:
        starts = Counter(prefix for key in foreign for prefix in WRAPPER_PREFIXES if key.startswith(prefix))
    if starts:
        prefix = starts.most_common(1)[0][0]
        writer = f", as {WRAPPER_PREFIXES[prefix]} writes it" if prefix in WRAPPER_PREFIXES else ""
        return f"its keys begin with {prefix!r}{writer}: save it again without that prefix"
    if foreign:
        return f"it has {_some(foreign)} instead; check that config.json belongs to these weights"
    return "copy the whole folder, with all weight files"


def _is_inside(model: PreTrainedModel, key: str) -> bool:
    """Return whether an unknown weight belongs to one of the model's existing layers."""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            module = model.get_submodule(".".join(parts[:length]))
        except AttributeError:
            continue
        return module is not model.base_model and not isinstance(module, torch.nn.ModuleList)
    return False


def weight_files(path: str, model: Model) -> list[str]:
    """Return the paths of a checkpoint's safetensors files, else of its pytorch_model.bin; empty if it has neither."""

    def here(name: str) -> str | None:
        return cached_file_or_none(path, name, model.revision)

    files, index = [here(SAFE_WEIGHTS_NAME)], here(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        files, _ = get_checkpoint_shard_files(path, index, revision=model.revision)
    return [file for file in files if file] or [file for file in [here(WEIGHTS_NAME)] if file]


def refuse_broken_files(path: str, model: Model) -> None:
    """Raise RunError if a weight file is a Git LFS pointer or is damaged."""
    try:
        files = weight_files(path, model)
    except (OSError, ValueError):
        return  # from_pretrained reports missing files
    for name in files:
        with Path(name).open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        if pointer:
            raise RunError(f"{name} is a Git LFS pointer, not the weights; fetch them: git lfs pull")
        if name.endswith(".safetensors"):
            try:
                safe_open(name, "pt")
            except SafetensorError as error:
                raise RunError(f"{name} is damaged or incomplete ({first_line(error)}); download it again") from None


def stored_type(path: str, model: Model) -> torch.dtype:
    """Return the dtype of the weights in a checkpoint's safetensors files; float32 if they have several dtypes."""
    refuse_broken_files(path, model)
    found = set()
    for file in weight_files(path, model):
        if file.endswith(".safetensors"):
            with safe_open(file, "pt") as tensors:
                found |= {tensors.get_slice(name).get_dtype() for name in tensors.offset_keys()}
    return HALF_DTYPES[found.pop()] if len(found) == 1 and found <= HALF_DTYPES.keys() else torch.float32
