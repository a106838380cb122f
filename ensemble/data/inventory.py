"""The inventory of a data folder: which files are not read as images, and why.

Reading rules are numbered, because a run must always read its images as it did when it
was made: a release that reads more formats would find more images in its folder. The
manifest of a run names its rules; runs of version 0.1 name none and use the first.
"""

from dataclasses import dataclass, field

# By the first rules, PNG, JPEG and WebP files and metadata.csv are read, and all other
# files are ignored. By the second, more formats are read, and a file that looks like a
# training image but cannot be one is refused.
FIRST_RULES, RULES = 1, 2
# A line shows this many names of files.
_SHOWN = 3


@dataclass(eq=False)
class Inventory:
    """The files beside the training images that are not read, or only in part.

    Attributes:
        rules: The number of the reading rules.
        n_images: Number of images that are read. None if the data set has no place
            where other files could lie.
        left_out: For each reason, how many files are not read, and the first few names.
        in_part: Names of the files of which only a part is read, by the kind of part.
        notes: Whole sentences about anything else.
    """

    rules: int = RULES
    n_images: int | None = None
    left_out: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    in_part: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def strict(self) -> bool:
        """Whether a file that looks like an image but cannot be one is refused."""
        return self.rules > FIRST_RULES

    def leave_out(self, reason: str, name: str) -> None:
        """Count a file that is not read; call this once for each file."""
        count, names = self.left_out.setdefault(reason, (0, []))
        if count < _SHOWN:
            names.append(name)
        self.left_out[reason] = (count + 1, names)

    def read_in_part(self, what: str, name: str) -> None:
        """Note a file of which only a part is read; it counts once."""
        self.in_part.setdefault(what, set()).add(name)

    def lines(self) -> list[str]:
        """The inventory as lines of text; no line if the data are not in files.

        Examples:
            >>> inventory = Inventory(n_images=2)
            >>> inventory.leave_out("hidden", ".thumbs.db")
            >>> inventory.lines()
            ['2 images; 1 file not read:', '  1 hidden: .thumbs.db']
        """
        if self.n_images is None:
            return []
        n_unread = sum(count for count, _ in self.left_out.values())
        images = _count_text(self.n_images, "image")
        if n_unread:
            head = f"{images}; {_count_text(n_unread, 'file')} not read:"
        else:
            head = f"{images}; no other file was found"
        by_count = sorted(self.left_out.items(), key=lambda item: (-item[1][0], item))
        return [
            head,
            *(f"  {n} {why}: {_first_names(names, n)}" for why, (n, names) in by_count),
            *(
                f"  {what}: {_count_text(len(names), 'file')}, "
                f"{_first_names(sorted(names)[:_SHOWN], len(names))}"
                for what, names in sorted(self.in_part.items())
            ),
            *(f"  {note}" for note in self.notes),
        ]


def _count_text(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _first_names(names: list[str], count: int) -> str:
    return ", ".join(names) + (", ..." if count > len(names) else "")
