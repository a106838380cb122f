"""What lies where training images lie and is not read, by name and number.

Reading rules are numbered, because a run must read its images for ever as it did when
it was made: a release that reads more formats would find more images in its folder.
The manifest of a run says by which rules its images are read; runs of version 0.1 say
nothing, and are read by the first rules.
"""

from dataclasses import dataclass, field

# By the first rules, PNG, JPEG and WebP files and metadata.csv are read, and whatever
# else lies there is passed over. By the second, more is read, and what looks like a
# training image but cannot be one is refused.
FIRST_RULES, RULES = 1, 2
# Names that a line shows.
_SHOWN = 3


@dataclass(eq=False)
class Inventory:
    """What was found where training images lie, besides those that are read.

    Attributes:
        rules: The number of the reading rules.
        n_images: Images that are read; None: they come from nowhere where anything
            else could lie.
        left_out: For each reason, how many files are not read, and the first few names.
        in_part: Names of the files of which a part is read, by what that part is.
        notes: Whole sentences about anything else.
    """

    rules: int = RULES
    n_images: int | None = None
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    in_part: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def strict(self) -> bool:
        """Whether what looks like an image but cannot be one is refused."""
        return self.rules > FIRST_RULES

    def leave_out(self, reason: str, name: str) -> None:
        """Count a file that is not read; call it once for each file."""
        count, names = self.left_out.setdefault(reason, (0, []))
        if count < _SHOWN:
            names.append(name)
        self.left_out[reason] = (count + 1, names)

    def read_in_part(self, what: str, name: str) -> None:
        """Note a file of which only a part is read, however often it is read."""
        self.in_part.setdefault(what, set()).add(name)

    def lines(self) -> list[str]:
        """What was found, for people; nothing if there are no files to speak of."""
        if self.n_images is None:
            return []
        n_unread = sum(count for count, _ in self.left_out.values())
        images = _counted(self.n_images, "image")
        if n_unread:
            head = f"{images}; {_counted(n_unread, 'file')} not read:"
        else:
            head = f"{images}; no other file was found"
        by_count = sorted(self.left_out.items(), key=lambda item: (-item[1][0], item))
        return [
            head,
            *(f"  {n} {why}: {_some(names, n)}" for why, (n, names) in by_count),
            *(
                f"  {what}: {_counted(len(names), 'file')}, "
                f"{_some(sorted(names)[:_SHOWN], len(names))}"
                for what, names in sorted(self.in_part.items())
            ),
            *(f"  {note}" for note in self.notes),
        ]


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _some(names: list[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
