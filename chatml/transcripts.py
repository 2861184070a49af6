"""hh-rlhf transcripts: `\\n\\nHuman: ...\\n\\nAssistant: ...`, one string for a whole conversation.

Nothing tells a marker from text that spells one, so two facts about these files decide. The speakers alternate: the
marker of who already speaks belongs to what is said. And the last turn of a comparison is an answer: where a `Human:`
follows it, the model went on to write the person's part, and the comparison is about that text.
"""

import re

from chatml.messages import Message, RecordError

START = "\n\nHuman:"
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    return text.startswith(START)


def read_transcript(text: str, what: str, *, ends_with_answer: bool = False) -> tuple[Message, ...]:
    """The messages of a transcript, without the white space around them. Raises RecordError naming the field `what`.

    `ends_with_answer` is for the sides of a comparison: what follows the last answer is read as part of it.
    """
    if not is_transcript(text):
        raise RecordError(f"{what!r} does not begin with {START!r}; a transcript does")
    turns: list[tuple[str, int, int]] = []  # speaker, where the turn's text begins, where its marker begins
    for marker in _MARKER.finditer(text):
        if not turns or marker[1] != turns[-1][0]:
            turns.append((marker[1], marker.end(), marker.start()))
    if ends_with_answer and len(turns) > 1 and turns[-1][0] == "Human":
        turns.pop()
    ends = [start for _, _, start in turns[1:]] + [len(text)]
    return tuple(
        Message(_ROLES[speaker], text[begin:end].strip()) for (speaker, begin, _), end in zip(turns, ends, strict=True)
    )
