"""What follows from the digests that the replicas of a group took at one log index. Pure.

A replica is *odd* if a majority of the voters, and at least two, agree on another digest. Where
there is no such majority nobody knows who is right: that is told, and nobody is odd. So with two
replicas a difference is found and not resolved, and so it is where too few answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

AGREEING_MIN: Final = 2  # one replica is no majority against another


class Verdict(NamedTuple):
    """`digest`: the majority's; None: there is none. Invariant: `odd` is empty then, and no node
    is in more than one of the sets."""

    digest: bytes | None
    agreed: frozenset[str]  # with the majority
    odd: frozenset[str]
    silent: frozenset[str]  # took none at this index, or could not be asked
    differ: bool  # two digests at least

    @property
    def words(self) -> str:
        """For a person."""
        if self.digest is None and not self.differ:
            return "too few replicas answered to compare"
        if self.digest is None:
            return "the replicas differ, and no majority says which of them is right"
        if self.odd:
            return f"{len(self.agreed)} replicas agree, {len(self.odd)} differ"
        return f"{len(self.agreed)} replicas agree"


def majority_of(voters: int) -> int:
    """How many voters have to agree, for those who do not to be wrong."""
    return max(AGREEING_MIN, voters // 2 + 1)


def judge(voters: Collection[str], digests: Mapping[str, bytes | None]) -> Verdict:
    """`digests`: of every replica that was asked, learners too; None: it gave none.

    Learners may be odd, and count for no majority.
    """
    given = {node: digest for node, digest in digests.items() if digest is not None}
    votes = Counter(digest for node, digest in given.items() if node in voters)
    silent = frozenset(digests) - given.keys()
    differ = len(set(given.values())) > 1
    digest, count = votes.most_common(1)[0] if votes else (None, 0)
    if count < majority_of(len(voters)):
        return Verdict(None, frozenset(), frozenset(), silent, differ)
    agreed = frozenset(node for node, found in given.items() if found == digest)
    return Verdict(digest, agreed, frozenset(given) - agreed, silent, differ)
