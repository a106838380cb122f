"""Ask whose data made a picture: python attribute.py RUN [COMMAND ...].

Without a command, everything with its defaults: generate queries, verify the
certificate, ablate every source (exactly, up to 200 of them), write report.html. What
is done already is left alone. If the certificate does not hold, the report is written
all the same and says so, and the exit code is 2.

Exit codes: 0 done, 2 bad input, 75 interrupted and resumable, 1 anything else.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.cli import attribute_options
from ensemble.provenance import plans
from ensemble.report import outdated
from ensemble.run import files, query_names, removal_log, voters
from ensemble.run.folder import Run, open_run
from ensemble.system.text import visible
from splits.errors import BadInput

if TYPE_CHECKING:
    from ensemble.ablation.influence_request import Asked
    from ensemble.cluster.ray_cluster import Cluster
    from ensemble.sampling.pipeline import EnsemblePipeline

# Exact ablation of more sources than this, each with its placebos, takes hours.
MANY_SOURCES = 200


def ensemble_of(run: Run, ready: plans.Plan | None = None) -> "EnsemblePipeline":
    """The run's pipeline; on a CPU as many members side by side as there are cores.

    Args:
        run: The run folder.
        ready: The plan that it is used with.

    Raises:
        BadInput: If the run has not been trained to its end, or members that vote are
            others by now than when the plan was read.
    """
    retired = voters.retired_members(run.path)
    n_members = files.read_json(run.manifest)["n_members"]
    wanted = [member for member in range(n_members) if member not in retired]
    n_trained = sum(run.member(member).exists() for member in wanted)
    if n_trained < len(wanted):
        raise BadInput(
            f"{run.path} is not trained yet: {n_trained} of {len(wanted)} members are "
            f"there. Wait for train.py, or go on with `python train.py "
            f"{run.path / 'config.yaml'}`."
        )
    import torch

    from ensemble.sampling.pipeline import EnsemblePipeline

    if "train" not in files.read_json(run.manifest)["stages"]:
        # Whoever finished the run was killed before that was on record.
        from ensemble.sampling import completion

        completion.complete(run)
    pipe = EnsemblePipeline.from_pretrained(run.path)
    if ready is not None and pipe.membership is not None:
        plans.require_codes_of(run, ready, pipe.membership)
    if torch.accelerator.is_available():
        return pipe.to(torch.accelerator.current_accelerator())
    torch.set_num_threads(1)
    pipe.members.side_by_side = os.cpu_count() or 1
    return pipe


def on_cluster(options: argparse.Namespace) -> "Cluster":
    """The Ray cluster that was asked for."""
    from ensemble.cluster.ray_cluster import Cluster

    return Cluster(options.address, options.gpus_per_task)


def generate(run: Run, options: argparse.Namespace) -> None:
    """Generate queries."""
    from ensemble.sampling import queries

    if options.n < 1:
        raise BadInput(f"--n is {options.n}: at least one query is needed.")
    if options.seed < 0:
        raise BadInput(f"--seed is {options.seed}: a seed from 0 up is wanted.")
    query_names.checked(options.name)
    labels = (
        attribute_options.numbers("--labels", options.labels)
        if options.labels
        else None
    )
    seeds = range(options.seed, options.seed + options.n)
    queries.generate(run, ensemble_of(run), options.name, seeds, labels)
    print(f"{options.n} queries in {run.queries(options.name)}")


def ablate(run: Run, options: argparse.Namespace) -> None:
    """Ablate every source, a set of sources, or groups of them.

    Raises:
        BadInput: If an option has no effect.
    """
    from ensemble.ablation import influence_request, influence_tables, removal_sets
    from ensemble.ablation.measurement_names import chosen_measurements

    _require_effect(options)
    ready = plans.load(run)
    if options.sources is not None:
        chosen = ready.called.of_text(options.sources, "--sources")
        removed = removal_sets.one_set(ready, chosen)
    elif options.groups is not None:
        removed = removal_sets.by_column(ready, options.groups)
    else:
        removed = removal_sets.each_source(ready)
    for line in removal_sets.survivors(removed):
        print(visible(line))
    asked = influence_request.Asked(
        run,
        ensemble_of(run, ready),
        ready,
        options.name,
        removed,
        chosen_measurements(options.measurement, ready),
    )
    print(influence_tables.summary(_measured(asked, options)))


def _require_effect(options: argparse.Namespace) -> None:
    """Refuse options that the method of ablation has no use for.

    Raises:
        BadInput: If one is given.
    """
    if options.accuracy is not None and options.method != "differential":
        raise BadInput(
            f"--accuracy has no effect with --method {options.method}: it chooses the "
            "road of --method differential. Leave it out."
        )
    if options.engine == "ray" and options.method != "exact":
        raise BadInput(
            f"--engine ray deals out pictures, and --method {options.method} follows the "
            "sampler instead: say --method exact, or leave --engine out."
        )


def _measured(asked: "Asked", options: argparse.Namespace) -> Path:
    """Ablate by the method that was asked for; returns the folder of the tables."""
    from ensemble.ablation import influence

    if options.engine == "ray":
        from ensemble.cluster import ray_engine

        return ray_engine.ablate(
            asked, on_cluster(options), options.placebos, options.max_memory
        )
    if options.method == "exact":
        return influence.measure_exactly(asked, options.placebos, options.max_memory)
    if options.method == "differential":
        return influence.measure_differentially(
            asked, options.accuracy, options.placebos
        )
    return influence.measure_adjointly(asked)


def score(run: Run, options: argparse.Namespace) -> None:
    """Score all sources by gradient methods, or show the methods.

    Raises:
        BadInput: If no method is named, or there is none of that name.
    """
    from ensemble.scorers import runner

    if options.list:
        print(runner.listing())
        return
    if not options.method:
        raise BadInput("Name a method with --method, or several: --method trak,das.")
    model = int(options.model) if options.model.isdecimal() else options.model
    dampings = (
        attribute_options.positive("--dampings", options.dampings)
        if options.dampings
        else []
    )
    asked: dict[str, Any] = {
        "which": model,
        "max_memory_mb": options.max_memory,
        "dampings": dampings,
        "per_image": options.per_image,
    }
    methods = options.method.split(",")
    if options.engine == "ray":
        from ensemble.cluster import ray_engine

        paths = ray_engine.score(
            run, options.name, methods, on_cluster(options), **asked
        )
    else:
        ready = plans.load(run)
        pipe = ensemble_of(run, ready)
        paths = (
            runner.score(run, pipe, ready, options.name, method, **asked)
            for method in methods
        )
    for method, path in zip(methods, paths, strict=True):
        print(f"{method}: {path}")


def evaluate(run: Run, options: argparse.Namespace) -> None:
    """Evaluate scores, ablation or the ensemble, and show the table."""
    from ensemble.evaluation import EVALUATIONS, ground_truth, plots, tables
    from ensemble.evaluation.options import from_flags

    chosen, ready = from_flags(vars(options)), plans.load(run)
    if options.what == "lds" and options.subsets is None:
        chosen = ground_truth.no_fewer(run, chosen)
    evaluation = EVALUATIONS[options.what]
    work = evaluation.work(run, ready, chosen)
    if work:
        print(f"To do: {work}.", flush=True)
    path = evaluation.on_record(run, ready, chosen)
    if path is None:
        path = evaluation.evaluate(run, ensemble_of(run, ready), ready, chosen)
    rows = files.read_json(path)["rows"]
    # Like the plots, it carries no digest: it is made again from what does.
    files.write_text(path.with_suffix(".csv"), tables.as_csv(rows))
    print(tables.as_text(rows))
    drawn = ", ".join(file.name for file in plots.draw(path))
    print(f"Table: {path}; beside it a CSV, and {drawn}")


def verify(run: Run, options: argparse.Namespace) -> None:
    """Check the exactness certificate.

    Raises:
        BadInput: If it is violated; every violation is named.
    """
    from ensemble.certificate import certificate
    from ensemble.report import verification

    sources, whose = [], ""
    if options.sources is not None:
        called = plans.source_names(run)
        sources = called.of_text(options.sources, "--sources")
        whose = f" for {called.these(sources)}"
    about = verification.digest(run)
    found = certificate.check(run, sources)
    if not sources:
        # What is found of some sources is no state of the run.
        verification.record(run, about, found.findings)
    if sources and not found.holds:
        print(visible(found.statement()))
    if not found.holds:
        raise BadInput(
            f"The certificate of {run.path} does not hold{whose}:\n  "
            + "\n  ".join(found.violations)
            + "\n"
            + "\n".join(found.remedies)
        )
    print(visible(found.statement()))


def remove(run: Run, options: argparse.Namespace) -> None:
    """Record that sources must go, and say what follows."""
    from ensemble.provenance import removal

    sources = plans.source_names(run).of_text(options.sources, "--sources")
    for line in removal.announced(run, sources):
        print(visible(line), flush=True)
    recorded = removal.request(run, sources, options.reason, options.force)
    if recorded is None:
        print("All of these had been removed before; nothing was recorded.")
    else:
        print(f"Request {recorded.number} recorded in {run.path / removal_log.LOG}.")
    marked = outdated.mark(run)
    if marked is not None:
        print(f"{marked} was made before: it says so now, at its top.")
    for line in removal.consequences(run):
        print(line)


def report(run: Run, options: argparse.Namespace) -> None:
    """Write report.html."""
    from ensemble.report.report import write

    page = write(run, options.name, plans.load(run).data)
    print(f"Report: {page}")


def everything(run: Run, _: argparse.Namespace) -> None:
    """All stages with their defaults; many sources are ablated differentially.

    The certificate comes before the ablations that rest on it. If it does not hold,
    that is said at once, and the report is written all the same and says it too.

    Raises:
        BadInput: If the certificate does not hold, once everything else is done.
    """

    def do(*stage: str) -> None:
        options = attribute_options.parse([str(run.path), *stage], __doc__)
        COMMANDS[options.command](run, options)

    many = files.read_json(run.manifest)["n_sources"] > MANY_SOURCES
    violated = None
    do("generate")
    try:
        do("verify")
    except BadInput as error:
        violated = error
        print(visible(f"warning: {error}"), file=sys.stderr, flush=True)
    do("ablate", "--method", "differential" if many else "exact")
    do("report")
    if violated is not None:
        raise BadInput(
            f"{run.path / outdated.REPORT} is written, and says what it does not prove. "
            f"{violated}"
        )


COMMANDS = {
    "everything": everything,
    "generate": generate,
    "ablate": ablate,
    "score": score,
    "evaluate": evaluate,
    "verify": verify,
    "remove": remove,
    "report": report,
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    options = attribute_options.parse(arguments, __doc__)
    run = open_run(options.run)
    files.remove_abandoned(run.path)
    COMMANDS[options.command](run, options)
    return 0
