"""Naming: which sources are meant, by their numbers, their names or their owners.

One rule holds wherever somebody names sources, on the command line and in Python:

- A whole number of Python or numpy is the number of a source, never a name.
- A text is read in every way in which it can be read: as the name of a source, as the
  name of an owner, and, if it has nothing but digits, as a number. Where all readings
  mean the same sources, these are meant. Where they differ, the text is refused, and
  the message says each reading and how to write it.
- `number:7` is source number 7, `name:7` is the source called 7, and `owner:7` is all that the
  owner called 7 has a part in.
- Where a source or an owner is called by digits that are not the number of just that
  source, digits alone are always refused: write one of these three.
"""

import csv
import difflib
import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splits.entries import entries
from splits.errors import BadInput

N_SHOWN = 8
# Looking for close matches among more names than this would take seconds.
_N_COMPARED = 20_000


@dataclass(frozen=True)
class Reading:
    """One way to read a text.

    Attributes:
        kind: `number`, `name` or `owner`.
        called: The number or the name.
        sources: The sources that are meant, ascending.
    """

    kind: str
    called: str
    sources: tuple[int, ...]

    @property
    def form(self) -> str:
        """How to write it so that it has no other reading."""
        return f"{self.kind}:{self.called}"


@dataclass(frozen=True, eq=False)
class SourceNames:
    """What the sources of a code book are called, and who owns them.

    Attributes:
        n_sources: How many sources there are.
        names: One per source, in order; empty if the sources have no names.
        owners: The sources that each owner has a part in, by the owner's name.

    Raises:
        BadInput: If there are names, but not one for each source, or an owner has a
            part in a source that does not exist.
    """

    n_sources: int
    names: Sequence[str] = ()
    owners: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.names) not in (0, self.n_sources):
            raise BadInput(
                f"There are {len(self.names)} names for {self.n_sources} sources. Give "
                "every source one name, in the order of their numbers."
            )
        for owner, sources in self.owners.items():
            if not all(0 <= source < self.n_sources for source in sources):
                raise BadInput(
                    f"Owner {owner!r} has a part in sources {list(sources)}, but there "
                    f"are sources 0 to {self.n_sources - 1}. Restore sources.json from a "
                    "copy, or correct the owners."
                )

    def called(self, source: int) -> str:
        """A source's number and, in brackets, its name: `5 (digit 0005)`."""
        name = self.names[source] if self.names else str(source)
        return str(source) if name == str(source) else f"{source} ({name})"

    def listed(self, sources: Sequence[int]) -> str:
        """Numbers and names of sources, the first few of many."""
        shown = ", ".join(self.called(source) for source in sources[:N_SHOWN])
        more = len(sources) - N_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown

    def these(self, sources: Sequence[int]) -> str:
        """The same with the word before it: `source 5`, `sources 5, 7`, `no source`."""
        if not len(sources):
            return "no source"
        return f"source{'s' * (len(sources) > 1)} {self.listed(sources)}"

    def knows(self, text: str) -> bool:
        """Whether a text can be read as a source, or as several."""
        return bool(self._all_readings(text))

    def written(self, sources: Sequence[int]) -> str:
        """Sources as the command line takes them: their numbers."""
        before = "number:" if self._digits_mislead else ""
        return ",".join(f"{before}{source}" for source in sources)

    def chosen(self, asked: Any, option: str) -> list[int]:
        """The sources that are asked for, ascending, each once.

        Args:
            asked: A number, a text, or a collection of these. An owner's name stands
                for all sources that the owner has a part in.
            option: What messages call it.

        Raises:
            BadInput: If one of them is no source, or can be read in several ways.
        """
        found: set[int] = set()
        for one in entries(asked, option):
            readings = self._readings(one, option)
            found.update(readings[0].sources)
        return sorted(found)

    def allowed(self, asked: Any, option: str = "allowed") -> list[int]:
        """The sources that may be used, ascending, if these sources and owners agree.

        A source of several owners is allowed if all of them are, or if it is named
        itself. A name that a source and an owner share stands for both.

        Args:
            asked: A number, a text, or a collection of these.
            option: What messages call it.

        Raises:
            BadInput: If one of them is no source and no owner, or can be read in
                several ways.
        """
        found: set[int] = set()
        agreed: set[str] = set()
        for one in entries(asked, option):
            for reading in self._readings(one, option, both=True):
                if reading.kind == "owner":
                    agreed.add(reading.called)
                else:
                    found.update(reading.sources)
        owned, others = set(), set()
        for owner, sources in self.owners.items():
            (owned if owner in agreed else others).update(sources)
        return sorted(found | (owned - others))

    def of_text(self, texts: Iterable[str], option: str) -> list[int]:
        """The sources that texts of the command line name, ascending, each once.

        A text is one number or name, or several with commas between them. A name with a
        comma in it stands in double quotes, unless it is the whole text.

        Raises:
            BadInput: If one of them is no source, or can be read in several ways.
        """
        return self.chosen(
            [one for t in texts for one in self._parts(t, option)], option
        )

    @functools.cached_property
    def _sources_called(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for source, name in enumerate(self.names):
            found.setdefault(_normal(name), []).append(source)
        return found

    @functools.cached_property
    def _owners_called(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for owner in self.owners:
            found.setdefault(_normal(owner), []).append(owner)
        return found

    @functools.cached_property
    def _digits_mislead(self) -> bool:
        """Whether something is called by digits that are not its own number."""
        named = [(name, [source]) for source, name in enumerate(self.names)]
        owned = [(owner, [*sources]) for owner, sources in self.owners.items()]
        return any(
            _is_digits(name) and [name.lstrip("0") or "0"] != [*map(str, sources)]
            for name, sources in (*named, *owned)
        )

    def _readings(self, one: Any, option: str, both: bool = False) -> list[Reading]:
        """How an entry can be read; all readings that are left mean the same.

        Args:
            one: A number or a text.
            option: What messages call it.
            both: Let a source and an owner of one name both be meant.
        """
        if not isinstance(one, str):
            if not 0 <= one < self.n_sources:
                raise self._no_number(int(one), option)
            return [self._number(int(one))]
        readings = self._all_readings(one)
        kinds = {reading.kind for reading in readings}
        same = len({reading.sources for reading in readings}) == 1
        agree = same or (both and kinds == {"name", "owner"} and len(readings) == 2)
        misleading = _is_digits(one.strip()) and self._digits_mislead
        if readings and agree and not misleading:
            return readings
        if not readings:
            raise self._nothing(one, option)
        raise self._several(one, option, readings)

    def _all_readings(self, text: str) -> list[Reading]:
        wanted = _normal(text)
        found = [*self._named(wanted), *self._owned(wanted)]
        if wanted.startswith("name:"):
            found += self._named(_normal(wanted.removeprefix("name:")))
        if wanted.startswith("owner:"):
            found += self._owned(_normal(wanted.removeprefix("owner:")))
        digits = wanted.removeprefix("number:")
        if _is_number(digits) and int(digits) < self.n_sources:
            found.append(self._number(int(digits)))
        return found

    def _number(self, source: int) -> Reading:
        return Reading("number", str(source), (source,))

    def _named(self, name: str) -> list[Reading]:
        sources = self._sources_called.get(name, [])
        if len(sources) == 1:
            return [Reading("name", self.names[sources[0]], (sources[0],))]
        return [self._number(source) for source in sources]

    def _owned(self, name: str) -> list[Reading]:
        return [
            Reading("owner", owner, tuple(sorted(self.owners[owner])))
            for owner in self._owners_called.get(name, [])
        ]

    def _parts(self, text: str, option: str) -> list[str]:
        """The entries of a text of the command line."""
        parts = _split(text)
        if not self._all_readings(text):
            if parts and all(part.strip() for part in parts):
                return parts
            raise BadInput(
                f"{option} is {text!r}: numbers or names of sources with commas between "
                "them are wanted, such as 3,17. A name with a comma in it stands in "
                "double quotes."
            )
        if len(parts) > 1 and all(self._all_readings(part) for part in parts):
            each = ", ".join(repr(part) for part in parts)
            raise BadInput(
                f"{option} is {text!r}, which is one name with a comma in it, and also "
                f"{each}. Write the one name in double quotes, as '\"{text}\"', or say "
                f"{option} once for each of the others."
            )
        return [text]

    def _no_number(self, number: int, option: str) -> BadInput:
        return BadInput(
            f"Source {number} does not exist: {option} takes numbers from 0 to "
            f"{self.n_sources - 1}{self._or_names()}."
        )

    def _nothing(self, text: str, option: str) -> BadInput:
        wanted = _normal(text)
        if _is_number(wanted.removeprefix("number:")):
            return self._no_number(int(wanted.removeprefix("number:")), option)
        return BadInput(
            f"{option} names {text!r}, but no source{self._or_owner()} is called so; "
            f"there are sources 0 to {self.n_sources - 1}{self._or_names()}. "
            f"{self.advice(wanted)}"
        )

    def _several(self, text: str, option: str, readings: list[Reading]) -> BadInput:
        ways = [f"{self._form(one)} for {self.these(one.sources)}" for one in readings]
        return BadInput(
            f"{option} has {text!r}, which can be taken for a number, for a name, or for "
            f"more than one of these. Write {', or '.join(ways)}{self._absent(readings)}."
        )

    def _absent(self, readings: list[Reading]) -> str:
        """The other way to take digits that have one reading only."""
        if len(readings) > 1:
            return ""
        if readings[0].kind == "number":
            return f"; nothing is called {readings[0].called!r}"
        return f"; no source has the number {readings[0].called}"

    def _form(self, reading: Reading) -> str:
        """How to write what a reading means, so that it is read in this way only."""
        forms = [reading.form]
        if len(reading.sources) == 1 and self.names:
            forms += [
                f"number:{reading.sources[0]}",
                f"name:{self.names[reading.sources[0]]}",
            ]
        for form in forms:
            if {one.sources for one in self._all_readings(form)} == {reading.sources}:
                return form
        return forms[0]

    def _or_names(self) -> str:
        return ", or their names" if self.names else ", which have no names"

    def _or_owner(self) -> str:
        return " or owner" if self.owners else ""

    def advice(self, text: str) -> str:
        """What to do about a name that nobody has: names that are like it."""
        wanted = _normal(text)
        known = [*self._sources_called, *self._owners_called]
        split = [
            name
            for name in known
            if "," in name and name.startswith(wanted) and name != wanted
        ]
        if split:
            return (
                "A name with a comma in it stands in double quotes, such as "
                f"'\"{split[0]}\"'."
            )
        if len(known) > _N_COMPARED:
            known = [name for name in known if wanted.casefold() in name.casefold()]
        folded = {name.casefold(): name for name in known[:_N_COMPARED]}
        near = difflib.get_close_matches(wanted.casefold(), folded, n=3)
        if near:
            return f"Did you mean {' or '.join(repr(folded[one]) for one in near)}?"
        if "," in wanted:
            return "Each text is one name: give several as a list."
        return "Give a number, or a name as sources.json has it."


def _split(text: str) -> list[str]:
    """A text at its commas; what stands in double quotes is left whole."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error:
        return []


def _normal(text: str) -> str:
    """A name as it is compared: two Unicode spellings of one name are one name."""
    return unicodedata.normalize("NFC", text.strip())


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_number(text: str) -> bool:
    """Whether it is how a whole number is written: `7`, but not `007`."""
    return _is_digits(text) and (text == "0" or text[0] != "0") and len(text) < 19
