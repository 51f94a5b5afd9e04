"""What tests of ``tools/`` have workers run: they import this file by name."""

from __future__ import annotations

import time


class Steps:
    """In place of what times steps: of one network it hangs, of another it runs out of memory."""

    def __init__(self, hangs: str, grows: str) -> None:
        self.hangs, self.grows = hangs, grows

    def steps(self, genome, graphed: bool, count: int) -> tuple[float, float, bool]:
        if genome.id == self.hangs and graphed:
            time.sleep(600)
        if genome.id == self.grows and not graphed:
            raise MemoryError("out of memory")
        return (1.0 if graphed else 3.0), 2.5, graphed
