"""Cut records that are too long to length (`data.too_long`). A response is never trained on without its end.

- `drop`: drop the record.
- `cut_oldest_turns`: remove the oldest exchanges (a question and the response to it); keep the system prompt, the tools
  and the last exchange. Drop the record if it is still too long.
- `cut_left`: remove the oldest tokens, at any position. A response that lost its beginning stays as context and is
  masked; in comparisons and prompts only tokens before the response are removed.
- `error`: stop the run with an error that names the record.

Both sides of a comparison lose the same tokens, from the beginning that they share.
"""

from collections.abc import Sequence

from chatml import IGNORE, EncodedTurn
from config.data import TooLong

Turns = list[EncodedTurn]


def num_tokens(turns: Sequence[EncodedTurn]) -> int:
    """Return the number of tokens in `turns`."""
    return sum(len(turn) for turn in turns)


def cut_to_length(turns: Turns, room: int, policy: TooLong) -> Turns | None:
    """Cut a conversation or prompt to at most `room` tokens; return None if it is dropped."""
    if policy == "cut_oldest_turns":
        last = max(turn.turn.exchange for turn in turns)
        kept = _without_oldest([turns], room, last)
        return kept[0] if kept else None
    if policy == "cut_left":
        return _newest_tokens(turns, room)
    return None


def cut_pair(sides: tuple[Turns, Turns], shared: int, room: int, policy: TooLong) -> tuple[Turns, Turns] | None:
    """Cut both sides of a comparison to at most `room` tokens each; return None if the pair is dropped.

    The first `shared` messages are the same on both sides; only they can be cut.
    """
    differing = [next(turn for turn in side if turn.turn.messages.stop > shared) for side in sides]
    if policy == "cut_oldest_turns":
        kept = _without_oldest(sides, room, last=min(turn.turn.exchange for turn in differing))
        return (kept[0], kept[1]) if kept else None
    if policy == "cut_left":
        excess = max(map(num_tokens, sides)) - room
        if excess <= num_tokens([turn for turn in sides[0] if turn.turn.messages.stop <= shared]):
            chosen, rejected = (_newest_tokens(side, num_tokens(side) - excess) for side in sides)
            return chosen, rejected
    return None


def _without_oldest(sides: Sequence[Turns], room: int, last: int) -> list[Turns] | None:
    """Remove as few of the oldest exchanges as necessary; exchange 0 and those from `last` on are kept."""
    for first in range(2, last + 1):
        kept = [[turn for turn in side if turn.turn.exchange == 0 or turn.turn.exchange >= first] for side in sides]
        if all(num_tokens(side) <= room for side in kept):
            return kept
    return None


def _newest_tokens(turns: Turns, room: int) -> Turns:
    """Return the last `room` tokens; a turn that is cut is masked."""
    kept: Turns = []
    for turn in reversed(turns):
        if len(turn) > room:
            if room:
                kept.append(EncodedTurn(turn.turn, turn.input_ids[-room:], [IGNORE] * room))
            break
        kept.append(turn)
        room -= len(turn)
    return kept[::-1]
