"""How a stage leaves: the person's mistakes end in one line and exit code 2, an interruption in its signal's code."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from chatml import RecordError
from engine.run.folder import AlreadyFinishedError
from recipes import RecipeError


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)`; a finished run says so and exits 0, a mistake is one line on stderr and exits 2."""
    # peft still asks transformers by a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # At each checkpoint it would say that tied weights are stored once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()  # a bar for every file of weights would bury the stage's own line
    try:
        stage(recipe)
    except AlreadyFinishedError as finished:
        print(finished)
    except (RecipeError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)
