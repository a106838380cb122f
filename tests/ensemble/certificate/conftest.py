"""A small run that may be broken, and what a part of the certificate looks at."""

import shutil

import pytest

from ensemble.certificate.subject import Subject
from ensemble.provenance import plans
from ensemble.run import records, voters
from ensemble.run.files import read_json
from ensemble.run.folder import Run
from tests import tiny


@pytest.fixture(scope="package")
def whole(tmp_path_factory):
    """Eight digits of as many classes, four members."""
    folder = tmp_path_factory.mktemp("clauses") / "run"
    conditional = {"class_conditional": True}
    run, _ = tiny.trained(folder, model=conditional, data={"classes": 10})
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it."""
    shutil.copytree(whole.path, tmp_path / "run")
    return Run(tmp_path / "run", whole.config)


@pytest.fixture
def looked_at():
    """What every part of the certificate of a run folder looks at."""

    def of(run, asked=(), config=None):
        plan, silent = plans.read(run), voters.silenced_members(run.path)
        return Subject(
            run=Run(run.path, config or run.config),
            manifest=read_json(run.manifest),
            plan=plans.without(plan, plan.removed),
            drawn=plan.codes.bits,
            voting=[m for m in range(plan.codes.n_members) if m not in silent],
            silenced=silent,
            asked=list(asked),
        )

    return of


@pytest.fixture
def reseal():
    """Write a member's record as if it had really been trained so."""

    def write(run, member, **changes):
        folder = run.member(member)
        record = read_json(folder / "member.json")
        files = record.pop("files")
        assert files
        records.write_done_mark(folder, "member.json", {**record, **changes})

    return write
