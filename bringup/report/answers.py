"""The fixed questions of two runs, question by question: whether another quantisation still answers sensibly.

The margin was stated before any two quantisations were compared: of the answers that were right before, at most two may be wrong
after. At temperature 0 nearly the same model gives nearly the same answers; a question or two at the edge may go either way.
"""

from bringup.hardware import Frozen
from bringup.smoke.model import SmokeReport

MOST_LOST = 2


class Answers(Frozen):
    """What the second run answered beside the first."""

    before: int
    """Right answers of the questions that both were asked."""
    after: int
    asked: int
    lost: tuple[str, ...]
    """Keys of the questions that were answered rightly before and wrongly after."""
    won: tuple[str, ...]
    most_lost: int = MOST_LOST

    @property
    def worse(self) -> bool:
        """Whether more was lost than the margin allows."""
        return len(self.lost) > self.most_lost

    @property
    def words(self) -> str:
        """One sentence."""
        text = f"{self.before} of {self.asked} right before, {self.after} after"
        text += f"; lost: {', '.join(self.lost)}" if self.lost else ""
        text += f"; won: {', '.join(self.won)}" if self.won else ""
        return f"{text} (at most {self.most_lost} may be lost: {'exceeded' if self.worse else 'kept'})"


def compare_answers(before: SmokeReport, after: SmokeReport) -> Answers | None:
    """Compare the answers; None where one of the runs was not asked."""
    if before.quality is None or after.quality is None:
        return None
    first, second = ({one.key: one.correct for one in quality.answers} for quality in (before.quality, after.quality))
    both = [key for key in first if key in second]
    return Answers(
        before=sum(first[key] for key in both),
        after=sum(second[key] for key in both),
        asked=len(both),
        lost=tuple(key for key in both if first[key] and not second[key]),
        won=tuple(key for key in both if second[key] and not first[key]),
    )
