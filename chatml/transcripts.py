"""Read hh-rlhf transcripts: `\\n\\nHuman: ...\\n\\nAssistant: ...`, one string for a whole conversation.

A marker and text that spells one look the same, so two properties of these files decide. Speakers alternate: a marker
of the current speaker is part of the text. And a comparison ends with a response: if `Human:` follows it, the model
generated the user's turn as well, and the comparison includes that text.
"""

import re

from chatml.messages import Message, RecordError

START = "\n\nHuman:"
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    return text.startswith(START)


def read_transcript(text: str, what: str, *, ends_with_answer: bool = False) -> tuple[Message, ...]:
    """Return the messages of a transcript, without white space around their content.

    With `ends_with_answer`, for the sides of a comparison, text after the last response is read as part of it. Raise
    RecordError, naming the field `what`.
    """
    if not is_transcript(text):
        raise RecordError(f"{what!r} does not begin with {START!r}, as a transcript must")
    turns: list[tuple[str, int, int]] = []  # speaker, start of the turn's text, start of its marker
    for marker in _MARKER.finditer(text):
        if not turns or marker[1] != turns[-1][0]:
            turns.append((marker[1], marker.end(), marker.start()))
    if ends_with_answer and len(turns) > 1 and turns[-1][0] == "Human":
        turns.pop()
    ends = [start for _, _, start in turns[1:]] + [len(text)]
    return tuple(
        Message(_ROLES[speaker], text[begin:end].strip()) for (speaker, begin, _), end in zip(turns, ends, strict=True)
    )
