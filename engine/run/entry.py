"""How a stage leaves: the person's mistakes end in one line and exit code 2, an interruption in its signal's code."""

import sys
from collections.abc import Callable
from typing import Any

from chatml import RecordError
from engine.run.folder import AlreadyFinishedError
from recipes import RecipeError


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)`; a finished run says so and exits 0, a mistake is one line on stderr and exits 2."""
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
