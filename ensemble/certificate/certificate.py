"""The exactness certificate: what must be true for an ablation to be exact.

(a) surviving members never received the source in any form; (b) nothing upstream was
fitted on it; (c) codes do not depend on the content of other data; (d) noise, prompt
and seeds do not depend on it; (e) members share no trained weights. What can be
checked of this is checked here, against what the run folder holds now, part by part:
`clauses.PARTS` lists the parts, and each says what was checked of it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.certificate import parts
from ensemble.certificate.subject import Finding, Subject, first_few, violation
from ensemble.provenance import extension, plans
from ensemble.provenance.plans import Plan
from ensemble.run import files, locations, voters
from ensemble.run.folder import Run

# If the same remark is made about many sources, this many are shown in full; the
# others are only listed by number.
MOST_NAMED = 5


@dataclass(frozen=True)
class Certificate:
    """What was found when a run folder was verified.

    Attributes:
        path: The run folder.
        asked: The sources that were asked about; empty: all of them, one by one.
        called: Their numbers and names, as text.
        n_members: Members of the ensemble.
        n_sources: Sources of the run.
        findings: What every part said, in the order of the parts.
    """

    path: Path
    asked: tuple[int, ...]
    called: str
    n_members: int
    n_sources: int
    findings: tuple[Finding, ...]

    @property
    def violations(self) -> list[str]:
        """Everything that contradicts the certificate; nothing if it holds."""
        return [found.line for found in self.findings if found.holds is False]

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts the certificate."""
        return not self.violations

    @property
    def remedies(self) -> list[str]:
        """What to do about the contradictions; each remedy is listed once."""
        found = [one.remedy for one in self.findings if one.holds is False]
        return list(dict.fromkeys(found))

    @property
    def inexact(self) -> dict[int, list[str]]:
        """For each source whose ablation by itself is not exact: the reasons.

        A source can be listed here although the certificate holds as a whole.
        """
        found: dict[int, list[str]] = {}
        for one in self.findings:
            if one.holds is not True:
                for source in one.sources:
                    found.setdefault(source, []).append(one.line)
        return found

    def statement(self) -> str:
        """The certificate as text; every line of it has just been checked."""
        whose = f"its {self.n_members} members and {self.n_sources} sources"
        if self.asked:
            whose = f"the ablation of {self.called}"
        state = "holds for" if self.holds else "does not hold for"
        first = f"The certificate of {self.path} {state} {whose}."
        return "\n".join([first, *_report_lines(self.findings)])


def _report_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Findings as lines of text.

    Remarks about single sources are cut after the first `MOST_NAMED` in a row.
    """
    kinds = itertools.groupby(
        findings, lambda one: one.clause if one.holds is None and one.sources else ""
    )
    for kind, group in kinds:
        found = list(group)
        shown = found[:MOST_NAMED] if kind else found
        yield from (
            f"Contradicted: {one.line}" if one.holds is False else one.line
            for one in shown
        )
        if len(found) > len(shown):
            more = [source for one in found[len(shown) :] for source in one.sources]
            yield f"({kind}) the same of sources {first_few(more)}"


def check(run: Run, sources: Sequence[int | str] = ()) -> Certificate:
    """Verify a run folder, part by part.

    Args:
        run: The run folder.
        sources: Numbers or names of sources that the question is about, all removed
            together. They are also ablated, to see which members really run.

    Raises:
        BadInput: If the run has no plan to check against, or a source is unknown.
    """
    plan, manifest = plans.read(run), files.read_json(run.manifest)
    sources = plan.called.chosen(sources, "sources")
    found = [
        violation(
            "a, c",
            f"{name} of {run.path / files.FILE_OF.get(name, '')}: the run was made with "
            f"{wanted}, found {value}; so says {run.manifest}",
        )
        for name, (wanted, value) in plans.changes(run, plan).items()
    ]
    if not found:
        # Against a wrong plan everything else would look wrong too.
        found = _check_parts(run, plan, manifest, sources)
    return Certificate(
        run.path,
        tuple(sources),
        plan.called.these(sources),
        plan.codes.n_members,
        plan.codes.n_sources,
        tuple(found),
    )


def violations(run: Run, sources: Sequence[int | str] = ()) -> list[str]:
    """Everything that contradicts the certificate; nothing if it holds.

    Raises:
        BadInput: If the run has no plan to check against, or a source is unknown.
    """
    return check(run, sources).violations


def statement(run: Run) -> str:
    """The certificate of all sources of a run as text.

    Raises:
        BadInput: If the run has no plan to check against.
    """
    return check(run).statement()


def _check_parts(
    run: Run, plan: Plan, manifest: dict[str, object], sources: list[int]
) -> list[Finding]:
    """The findings of every part, of an extended run, and of the ablation itself."""
    # By the removals that the plan was read with: one may come at any moment.
    silent = voters.silenced_by(run.path, plan.removed)
    subject = Subject(
        run=run,
        manifest=manifest,
        plan=plans.without(plan, plan.removed),
        drawn=plan.codes.bits,
        voting=[m for m in range(plan.codes.n_members) if m not in silent],
        silenced=silent,
        asked=sources,
    )
    found = [one for part in parts.PARTS for one in part.check(subject)]
    found += _check_earlier_run(run)
    if all(one.holds is not False or one.sources for one in found):
        found = [*parts.LAST.check(subject), *found]
    return found


def _check_earlier_run(run: Run) -> list[Finding]:
    """The certificate of the run that this one extends, which must hold too."""
    before = extension.earlier(locations.of_run(run))
    if before is None:
        return []
    earlier = check(before)
    wrong = [one for one in earlier.findings if one.holds is False]
    if wrong:
        return [
            violation("", f"{before.path}: {one.line}", one.remedy) for one in wrong
        ]
    n_notes = sum(one.holds is None for one in earlier.findings)
    notes = f", with {n_notes} remarks of its own" if n_notes else ""
    return [Finding("", f"Extends {before.path}, whose certificate holds too{notes}")]
