"""The removal log: which sources were requested to be removed, when and why.

Requests to remove sources are lines of `removals.jsonl`, to which lines are only ever
appended. Each line holds its number, time, reason and sources, and the sha256 of the
line before it. The manifest records the digest of each line, so a log that was cut or
edited is detected. `ensemble.run.voters` derives which members may vote.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ensemble.run import files
from ensemble.run.folder import Run
from ensemble.run.manifest import note_stage, stage
from ensemble.system import environment
from splits.errors import BadInput

LOG = "removals.jsonl"
STAGE = "remove {}"


@dataclass(frozen=True)
class Request:
    """One request to remove sources.

    Attributes:
        number: 1, 2, ...
        time: Time of the request, in UTC.
        reason: The reason, as the user gave it.
        sources: Rows of the code book.
        names: Names of those sources.
        images: Names of the training images of all sources removed so far, by number.
        label_names: The classes of the original data.
        data_fingerprint: Digest of the training images with the removed ones masked.
        previous: The sha256 of the line before; empty for the first.
        twins: Pairs of names: an image of these sources, and an identical image of
            another source that stays. Version 0.1 did not record them.
    """

    number: int
    time: str
    reason: str
    sources: list[int]
    names: list[str]
    images: dict[str, str]
    label_names: list[str]
    data_fingerprint: str
    previous: str
    twins: list[list[str]] = field(default_factory=list)


def requests(folder: Path) -> list[Request]:
    """All requests to remove sources from a run, oldest first.

    Raises:
        BadInput: If the log was cut, edited or damaged.
    """
    path, lines = folder / LOG, lines_of(folder)
    previous = ""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Request(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            raise _broken_log_error(path, number) from None
        if found[-1].number != number or found[-1].previous != previous:
            raise _broken_log_error(path, number)
        previous = digest_of(line)
    known = _known_lines(folder)
    for number, digest in known.items():
        if number > len(lines) or digest_of(lines[number - 1]) != digest:
            raise _broken_log_error(path, number)
    return found


def append(run: Run, asked: dict[str, Any]) -> Request:
    """Add a request to the log; it is on the disk when this returns.

    Args:
        run: The run folder.
        asked: All fields of the request but `number`, `time` and `previous`.
    """
    lines = lines_of(run.path)
    number = len(lines) + 1
    previous = digest_of(lines[-1]) if lines else ""
    request = Request(number=number, time=environment.now(), previous=previous, **asked)
    line = _as_line(request)
    with stage(run, STAGE.format(number)) as facts:
        files.write_text(run.path / LOG, "".join(f"{one}\n" for one in [*lines, line]))
        facts["line_sha256"] = digest_of(line)
    return request


def note_lines(run: Run) -> None:
    """Record lines in the manifest whose process was killed before it could do so."""
    for number, line in enumerate(lines_of(run.path), 1):
        note_stage(run, STAGE.format(number), line_sha256=digest_of(line))


def removed(folder: Path) -> list[int]:
    """All sources that were ever requested to be removed, ascending."""
    return of_requests(requests(folder))


def of_requests(asked: Sequence[Request]) -> list[int]:
    """The sources that these requests remove, ascending."""
    return sorted({one for request in asked for one in request.sources})


def lines_of(folder: Path) -> list[str]:
    """The lines of the log; an incomplete last line is left out."""
    path = folder / LOG
    # Invalid bytes are replaced; the line's digest then shows that it is damaged.
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    return text.split("\n")[:-1]


def _known_lines(folder: Path) -> dict[int, str]:
    """The digests of the log's lines in the manifest, by line number."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return {}
    prefix = STAGE.format("")
    return {
        int(name.removeprefix(prefix)): facts["line_sha256"]
        for name, facts in files.read_json(manifest)["stages"].items()
        if name.startswith(prefix)
    }


def _as_line(request: Request) -> str:
    """A request as a line of the log.

    All letters stay readable. Invalid Unicode, which occurs in some file names and in
    reasons that were typed in another encoding, becomes a JSON escape.
    """
    text = json.dumps(asdict(request), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def digest_of(line: str) -> str:
    """The sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(line.encode("utf-8")).hexdigest()


def _broken_log_error(path: Path, number: int) -> BadInput:
    return BadInput(
        f"{path} was cut, edited or damaged: line {number} is not what was written. "
        "Restore it from a copy; what it said cannot be guessed."
    )
