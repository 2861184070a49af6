"""SIGTERM and SIGINT: the step that is running is finished and saved, then the run leaves with the signal's code.

A second signal leaves at once; the run then continues from the checkpoint before, as after any kill.
"""

import signal
import sys
from types import FrameType

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within it the first of the signals is noted, not obeyed; it must be entered in the main thread."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._noted = 0

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            sys.exit(128 + number)
        self._noted = number
        if self.accelerator.is_main_process:
            name = signal.Signals(number).name
            print(f"{name}: finishing this step and saving; once more leaves at once", file=sys.stderr, flush=True)

    def noted(self) -> int:
        """The signal that any process has noted, 0 if none; asked by all processes at the same point."""
        if self.accelerator.num_processes == 1:
            return self._noted
        own = torch.tensor([self._noted], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())
