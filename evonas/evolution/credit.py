"""Which mutations have lately led to something: their rates follow."""

from __future__ import annotations

from collections.abc import Mapping

_FORGET = 0.98  # of what is known of a mutation, with each further try of any
_BELIEF = 6.0  # tries that a mutation is taken to have had at the average rate of success
_LEAST, _MOST = 0.3, 3.0  # times its own share


class Credit:
    """Shares of mutations by their success: a child that neither parent dominates.

    Probability matching with forgetting and with bounds (as Thierens 2005 reviews it), so that no mutation dies out.

    Args:
        shares: mutation -> its share as long as nothing is known.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._base = dict(shares)
        self._tries = dict.fromkeys(shares, 0.0)
        self._wins = dict.fromkeys(shares, 0.0)

    def note(self, operator: str, won: bool) -> None:
        """``operator`` as a candidate names it, such as ``mate+step``; one without a mutation counts for none."""
        name = operator.rpartition("+")[2]
        if name not in self._base:
            return
        for counts in (self._tries, self._wins):
            for key in counts:
                counts[key] *= _FORGET
        self._tries[name] += 1
        self._wins[name] += won

    def shares(self) -> dict[str, float]:
        """Of every mutation, together 1."""
        shares = {name: self.share(name) for name in self._base}
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}

    def share(self, name: str) -> float:
        """Relative to the others': shares need not add up to 1."""
        tries = sum(self._tries.values())
        if not tries:
            return self._base[name]
        average = (sum(self._wins.values()) + 1) / (tries + 2)
        rate = (self._wins[name] + _BELIEF * average) / (self._tries[name] + _BELIEF)
        return self._base[name] * min(max(rate / average, _LEAST), _MOST)
