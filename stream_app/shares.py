"""A round's users in shares that several threads fold and rank side by side.

Model steps and products release the interpreter lock, so two threads keep two cores busy, and the engine encodes the
first share while the next ones are computed.
"""

from collections.abc import Sequence
from typing import Final

from stream_app.advance import Advanced

_LIST_STEPS: Final = 3
"""model steps that take as long as ranking a list of a few thousand items"""
_SMALLEST_SHARE: Final = 1_000
"""steps below which a share is not worth a thread: some milliseconds"""


def share_out(users: Sequence[Advanced], threads: int) -> list[list[int]]:
    """Indices into `users` in at most `threads` shares of about equal work; one share for a small round.

    Users with long segments come into the same share: the longest one decides how often the model is called for it. A
    step within a chunk counts like any other, which it costs in a large round.
    """
    if threads == 1:
        return [list(range(len(users)))] if users else []
    longest = [max([len(segment.items) // 8 - segment.folded for segment in user.segments]) for user in users]
    work = [
        sum([len(segment.items) // 8 - segment.folded + _LIST_STEPS * len(segment.marks) for segment in user.segments])
        for user in users
    ]
    total = sum(work)
    count = max(1, min(threads, total // _SMALLEST_SHARE))
    shares: list[list[int]] = [[] for _ in range(count)]
    done = 0
    for index in sorted(range(len(users)), key=longest.__getitem__, reverse=True):
        shares[min(count - 1, done * count // max(1, total))].append(index)
        done += work[index]
    return [share for share in shares if share]
