"""Progress: a bar in a terminal, and a line now and then in a log file."""

import sys
import time

from tqdm.auto import tqdm

# How often a log file is told.
SECONDS = 30.0


class Progress:
    """Shows how far some work has come, from within a `with` block.

    Args:
        doing: What is done, such as `ablating`.
        unit: What is counted.
        total: How many there are.
        done: How many were done in earlier sessions.
        seconds: What those took.
    """

    def __init__(
        self, doing: str, unit: str, total: int, done: int = 0, seconds: float = 0.0
    ) -> None:
        self.doing, self.unit = doing, unit
        self.total, self.done, self.first = total, done, done
        self.before = seconds
        self.began = self.told = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, desc=doing, unit=f" {unit}", disable=None
        )

    def __enter__(self) -> "Progress":
        if self.bar.disable and self.done:
            print(
                f"{self.doing}: {self.done} of {self.total} {self.unit} are there",
                file=sys.stderr,
                flush=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, number: int) -> None:
        """So many more are done."""
        self.done += number
        self.bar.update(number)
        now = time.monotonic()
        if self.bar.disable and (now - self.told >= SECONDS and self.done < self.total):
            self.told = now
            print(self.line(now - self.began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What a log file is told after so many seconds of this session."""
        left = (self.total - self.done) * seconds / (self.done - self.first)
        return (
            f"{self.doing}: {self.done} of {self.total} {self.unit}, "
            f"{_minutes(self.before + seconds)} spent, about {_minutes(left)} left"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
