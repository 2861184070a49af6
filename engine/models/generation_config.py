"""The generation config that a base brings along: transformers refuses to save some that it loads."""

import re

from transformers import GenerationConfig, PreTrainedModel

from engine.errors import RunError, first_line


def refuse_invalid_generation_config(path: str, revision: str | None) -> None:
    """Raise RunError for a base's generation config with which transformers would not even load the model."""
    try:
        GenerationConfig.from_pretrained(path, revision=revision)
    except OSError:
        return  # there is none
    except ValueError as error:
        raise _invalid(path, error) from None


def mend_generation_config(model: PreTrainedModel, path: str) -> None:
    """Unset what a base's generation config sets without effect; RunError for one that cannot be saved even so.

    A temperature beside `do_sample: false` is such a setting: plain `generate` ignores it, but `save_pretrained` raises
    an error as soon as anything else in the file was changed, which would be at the first checkpoint.
    """
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`:", str(error), re.MULTILINE):
            setattr(config, name, None)
        try:
            config.validate(strict=True)
        except ValueError as other:
            raise _invalid(path, other) from None


def _invalid(path: str, error: ValueError) -> RunError:
    return RunError(
        f"the generation_config.json of {path} is invalid ({first_line(error)}), and no checkpoint could be saved with "
        "it; correct the file, or delete it"
    )
