"""Check and repair a base's generation config: transformers loads some that it then refuses to save."""

import re

from transformers import GenerationConfig, PreTrainedModel

from engine.errors import RunError, first_line


def refuse_invalid_generation_config(path: str, revision: str | None) -> None:
    """Raise RunError if the base's generation config keeps transformers from loading the model."""
    try:
        GenerationConfig.from_pretrained(path, revision=revision or "main")
    except OSError:
        return  # the base has no generation config
    except ValueError as error:
        raise _invalid(path, error) from None


def repair_generation_config(model: PreTrainedModel, path: str) -> None:
    """Unset settings of the base's generation config that have no effect and would keep it from being saved.

    One is a temperature with `do_sample: false`: `generate` ignores it, but `save_pretrained` raises an error once
    anything else in the config has changed, which would be at the first checkpoint. Raises RunError if the config still
    cannot be saved.
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
