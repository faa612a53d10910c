"""How the domains' grammars are read: clause by clause, until nothing is left that was not understood."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Literal

from tc_mmwm_core.domains.base import DomainError

Split = Literal["train", "test"]
Wordings = dict[Split, tuple[str, ...]]  # phrases with a gap, {}; no training instruction uses those under "test"


class Reading:
    """A text on its way to its meaning. Case, spacing and punctuation do not matter.

    Each clause that is found is crossed off; a text is understood if in the end nothing is left of it. A rule that is
    worded otherwise, or a "do not" before a goal, must not be passed over: whoever is judged would be judged by less
    than what was said.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.plain = " ".join(re.sub(r"[,.;:!]", " ", text.lower()).split())
        self._open = self.plain  # as long as ``plain``, with what was understood crossed off

    def find(self, wordings: Wordings, fill: str = "") -> list[re.Match[str]]:
        """Each of ``wordings`` that the text holds, crossed off; ``fill`` matches what stands in the gap."""
        found = [
            m for phrase in itertools.chain(*wordings.values()) for m in pattern(phrase, fill).finditer(self.plain)
        ]
        for match in found:
            start, end = match.span()
            self._open = self._open[:start] + "|" * (end - start) + self._open[end:]
        return found

    def refuse_rest(self, known: str) -> None:
        """Nothing, where all was understood; ``known`` says what would have been.

        Raises:
            DomainError: quotes what is left beside "and".
        """
        pieces = (re.sub(r"^(and\b ?)+|( ?\band)+$", "", piece.strip()) for piece in self._open.split("|"))
        if left := [repr(piece) for piece in pieces if piece]:
            raise DomainError(f"instruction {self.text!r}: {' and '.join(left)} not understood; {known}")


@functools.cache
def pattern(phrase: str, fill: str) -> re.Pattern[str]:
    """Matches ``phrase`` as whole words, with what ``fill`` matches in its gap."""
    return re.compile(r"\b" + re.escape(phrase).replace(r"\{\}", fill) + r"\b")
