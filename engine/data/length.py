"""What happens to records that are too long (`data.too_long`). An answer is never trained on without its end.

- `drop`: it goes.
- `cut_oldest_turns`: the oldest exchanges go, a question with all that answers it; the system prompt, the tools and the
  last exchange stay. What is still too long then is dropped.
- `cut_left`: the oldest tokens go, wherever that cuts. An answer that lost its beginning stays to be read and is not
  trained on; of a comparison or a prompt only what precedes the answer is cut.
- `error`: the run stops, naming the record.

Both sides of a comparison lose the same: what they share from the start.
"""

from collections.abc import Sequence

from chatml import IGNORE, EncodedTurn
from config.data import TooLong

Turns = list[EncodedTurn]


def size(turns: Sequence[EncodedTurn]) -> int:
    """Tokens in `turns`."""
    return sum(len(turn) for turn in turns)


def cut(turns: Turns, room: int, policy: TooLong) -> Turns | None:
    """What `policy` leaves of a conversation or a prompt so that it fits into `room` tokens; None if it is dropped."""
    if policy == "cut_oldest_turns":
        last = max(turn.turn.exchange for turn in turns)
        kept = _without_oldest([turns], room, last)
        return kept and kept[0]
    if policy == "cut_left":
        return _newest_tokens(turns, room)
    return None


def cut_pair(sides: tuple[Turns, Turns], shared: int, room: int, policy: TooLong) -> tuple[Turns, Turns] | None:
    """What `policy` leaves of both sides so that each fits into `room` tokens; None if the pair is dropped.

    The first `shared` messages are the same on both sides, and only they can be cut.
    """
    differing = [next(turn for turn in side if turn.turn.messages.stop > shared) for side in sides]
    if policy == "cut_oldest_turns":
        kept = _without_oldest(sides, room, last=min(turn.turn.exchange for turn in differing))
        return kept and (kept[0], kept[1])
    if policy == "cut_left":
        excess = max(map(size, sides)) - room
        if excess <= size([turn for turn in sides[0] if turn.turn.messages.stop <= shared]):
            chosen, rejected = (_newest_tokens(side, size(side) - excess) for side in sides)
            return chosen, rejected
    return None


def _without_oldest(sides: Sequence[Turns], room: int, last: int) -> list[Turns] | None:
    """The sides without their oldest exchanges, as few as will do; exchange 0 and those from `last` on stay."""
    for first in range(2, last + 1):
        kept = [[turn for turn in side if turn.turn.exchange == 0 or turn.turn.exchange >= first] for side in sides]
        if all(size(side) <= room for side in kept):
            return kept
    return None


def _newest_tokens(turns: Turns, room: int) -> Turns:
    """The last `room` tokens; the turn that the cut goes through is not trained on any more."""
    kept: Turns = []
    for turn in reversed(turns):
        if len(turn) > room:
            if room:
                kept.append(EncodedTurn(turn.turn, turn.input_ids[-room:], [IGNORE] * room))
            break
        kept.append(turn)
        room -= len(turn)
    return kept[::-1]
