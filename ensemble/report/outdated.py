"""Outdated: a report that was made before a removal says so itself.

A page holds how many requests to remove sources it knew of. When there are more, a
banner is written into it: it may show images of removed sources, and members that saw
them had a part in its pictures.
"""

import html
import re
from pathlib import Path

from ensemble.run import files, removal_log
from ensemble.run.folder import Run
from ensemble.run.removal_log import Request
from ensemble.system.text import visible

REPORT = "report.html"
KNOWN = re.compile(r'<meta name="removals" content="(\d+)">')
MARK = '<p id="outdated" role="alert" style="'
STYLE = "margin:0 0 1rem;padding:1rem;background:#8a1c1c;color:#fff;font-weight:600"


def mark(run: Run) -> Path | None:
    """Write into a run's report that sources were removed since, if that is so.

    Pages of version 0.1 do not say what they knew of. They count as made before any
    removal: who made one since makes it again.

    Args:
        run: The run folder.

    Returns:
        The report, if it is outdated; None if it is not, or there is none.
    """
    path, requests = run.path / REPORT, removal_log.requests(run.path)
    if not path.exists() or not requests:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    known = KNOWN.search(text)
    n_known = int(known[1]) if known else 0
    if n_known >= len(requests):
        return None
    banner = _banner(run, requests[n_known:])
    text = re.sub(f"\n{re.escape(MARK)}.*?</p>", "", text, flags=re.DOTALL)
    body, found, rest = text.partition("<body>")
    # What is no page of ours is marked at its beginning.
    text = f"{body}{found}{banner}{rest}" if found else f"{banner}\n{text}"
    files.write_text(path, text)
    return path


def _banner(run: Run, requests: list[Request]) -> str:
    """What was removed since, and what to do, as a paragraph."""
    removed = "; ".join(
        f"{_named(one)} (request {one.number} of {one.time})" for one in requests
    )
    said = (
        f"Outdated. After this page was made, these sources were removed: {removed}. "
        "Members that saw them had a part in what it shows, and it may show their "
        f"images. Make queries of another name and a new report (python attribute.py "
        f"{run.path} generate --name NEW, and so on), or delete this page."
    )
    return f'\n{MARK}{STYLE}">{html.escape(visible(said))}</p>'


def _named(request: Request) -> str:
    """The sources of a request by number and name."""
    return ", ".join(
        f"source {source}" if name == str(source) else f"source {source} ({name})"
        for source, name in zip(request.sources, request.names, strict=True)
    )
