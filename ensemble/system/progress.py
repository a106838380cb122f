"""Progress reports: a bar in a terminal, or a line every 30 seconds in a log file."""

import sys
import time

from tqdm.auto import tqdm

# Time between two lines in a log file.
SECONDS = 30.0


class Progress:
    """Reports the progress of some work, within a `with` block.

    Args:
        doing: The work, such as `ablating`.
        unit: The things that are counted, in the plural.
        total: Their number.
        done: Number of them that were done in earlier sessions.
        seconds: Time that those took.
    """

    def __init__(
        self, doing: str, unit: str, total: int, done: int = 0, seconds: float = 0.0
    ) -> None:
        self.doing, self.unit = doing, unit
        self.total, self.done, self.first = total, done, done
        self.before = seconds
        self.began = self.last_printed = time.monotonic()
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
        """Report that `number` more units are done."""
        self.done += number
        self.bar.update(number)
        now = time.monotonic()
        is_due = now - self.last_printed >= SECONDS and self.done < self.total
        if self.bar.disable and is_due:
            self.last_printed = now
            print(self.line(now - self.began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The line for a log file after `seconds` of this session."""
        left = (self.total - self.done) * seconds / (self.done - self.first)
        return (
            f"{self.doing}: {self.done} of {self.total} {self.unit}, "
            f"{_minutes(self.before + seconds)} spent, about {_minutes(left)} left"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
