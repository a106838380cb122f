"""Train an encoded ensemble: python train.py CONFIG [section.key=value ...].

CONFIG is a file in configs/, or RUN/config.yaml to resume or replay a run. Started
again after an interruption, it goes on where it was; what is done is left alone. With
--reference, one more model is trained on everything, for scorers to look at. With
--repair, members that saw sources which `attribute.py RUN remove` removed since are
trained again without them, and vote again. With extends=EARLIER_RUN, its members take
in the images that `data` names now, or others join them.

Exit codes: 0 done, 2 bad input, 75 interrupted and resumable, 1 anything else.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ensemble.data import datasets
from ensemble.provenance import classes, drawing, extension, repair, source_groups
from ensemble.provenance.plans import Plan
from ensemble.run import (
    config_file,
    files,
    folder,
    lineage,
    locations,
    manifest,
    voters,
)
from ensemble.run.config import Config
from ensemble.run.folder import REFERENCE, Run, Trainable
from ensemble.system import launching
from ensemble.system.text import visible
from splits.choosing import compare, comparison_table
from splits.choosing.compare import Requirements
from splits.errors import BadInput

REQUIREMENTS = {
    "sources": "for so many sources; by default those of the training images",
    "remove": "sources that may be removed together, whichever they are (default: 1)",
    "keep": "members that must be left then (default: 1)",
    "budget": "members there may be at most (default: splits.n_members)",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a YAML file with what departs from defaults")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="change an option"
    )
    parser.add_argument(
        "--members", metavar="3,5", help="train only these members of the ensemble"
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="also train a model on everything, for `attribute.py score --model "
        "reference`; it is no part of the ensemble",
    )
    launching.add_engine(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="train again, without them, the members that saw removed sources",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print what the design promises, the work and the disk; then stop",
    )
    requirements = parser.add_argument_group("with --plan, compare all designs instead")
    for name, help_text in REQUIREMENTS.items():
        requirements.add_argument(f"--{name}", type=int, metavar="N", help=help_text)
    return parser.parse_intermixed_args(arguments)


def chosen(text: str | None, n_members: int) -> list[int]:
    """The members that were asked for; all of them by default.

    Raises:
        BadInput: If one is not a number, or not a member of the ensemble.
    """
    if text is None:
        return list(range(n_members))
    try:
        members = [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(
            f"--members is {text!r}: numbers with commas between them are wanted, such "
            "as 3,5."
        ) from None
    unknown = [member for member in members if not 0 <= member < n_members]
    if unknown:
        raise BadInput(
            f"Member {unknown[0]} does not exist: this ensemble has members 0 to "
            f"{n_members - 1}."
        )
    return members


def compared(config: Config, requested: dict[str, int]) -> str:
    """What every design would guarantee and cost under the requirements, as text."""
    from ensemble.training.description import weights_of_a_member

    data = datasets.load(config.data)
    n_coded = source_groups.grouped(config.data, data).n_coded
    requirements = Requirements(
        requested.get("sources", n_coded),
        requested.get("remove", 1),
        requested.get("keep", 1),
        requested.get("budget", config.splits.n_members),
    )
    rows = compare.compare(requirements, config.splits.seed)
    shown = config.training.steps * config.training.batch_size
    n_weights = weights_of_a_member(config, data)
    return comparison_table.table(rows, requirements, shown, 4 * n_weights)


def missing(run: Run, ready: Plan, options: argparse.Namespace) -> list[Trainable]:
    """Whoever was asked for, is not there, and has something to be trained on."""
    wanted: list[Trainable] = [*chosen(options.members, ready.codes.n_members)]
    if options.reference:
        wanted.append(REFERENCE)
    retired = voters.retired_members(run.path)
    return [m for m in wanted if m not in retired and not run.trained(m).exists()]


def train(run: Run, ready: Plan, members: Sequence[Trainable]) -> int:
    """Train members in this process; returns the exit code."""
    from ensemble.training.members import train_members
    from ensemble.training.process import Interrupted, Stopping

    stopping = Stopping()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopping)
    try:
        failed = train_members(run, members, ready, stopping)
    except Interrupted:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 75
    for message in failed.values():
        print(message, file=sys.stderr)
    return 1 if failed else 0


def train_here(
    run: Run, ready: Plan, todo: Sequence[Trainable], arguments: Sequence[str]
) -> int:
    """Train members by processes of this machine; returns the exit code."""
    settings = run.config.training
    per_member = settings.processes_per_member
    processes = launching.n_processes(settings.processes, len(todo), per_member)
    if processes == 1 or launching.is_worker():
        return train(run, ready, todo)
    if not todo:
        return 0
    print(f"Training {described(todo)} in {processes} processes.", flush=True)
    command = ["-m", "ensemble.cli", "train", *arguments]
    return launching.launch(command, processes, settings.threads, per_member)


def train_on_cluster(
    run: Run, todo: Sequence[Trainable], options: argparse.Namespace
) -> int:
    """Train members on a Ray cluster; returns the exit code."""
    from ensemble.cluster import ray_cluster, ray_engine

    cluster = ray_cluster.Cluster(options.address, options.gpus_per_task)
    print(f"Training {described(todo)} on a Ray cluster.", flush=True)
    return ray_engine.train(run, todo, cluster)


def described(members: Sequence[Trainable]) -> str:
    """How many members, and whether the reference is with them."""
    n_members = sum(member != REFERENCE for member in members)
    reference = " and the reference" if REFERENCE in members else ""
    return f"{n_members} members{reference}"


def finish(run: Run, n_members: int) -> bool:
    """Make the run folder a pipeline once all members are there.

    Returns:
        Whether they are. Whoever trains the last member does the work, so that the
        process that only waits for the others need not load what it takes.
    """
    wanted = set(range(n_members)) - set(voters.retired_members(run.path))
    if any(not run.member(member).exists() for member in wanted):
        return False
    if not manifest.is_complete(run):
        from ensemble.sampling import completion

        completion.complete(run)
    return True


def found(ready: Plan) -> str:
    """What was read as training images and what was not, as lines."""
    return "".join(f"{visible(line)}\n" for line in datasets.describe(ready.data))


def outcome(run: Run, n_members: int, complete: bool) -> str:
    """What there is now, and what to do next."""
    everyone: list[Trainable] = [*range(n_members), REFERENCE]
    there: list[Trainable] = [m for m in everyone if run.trained(m).exists()]
    found = f"{described(there)} in {run.path}."
    if complete:
        return f"{found}\nNext: python attribute.py {run.path}"
    return f"{found} Others were not asked for here, or are left to other processes."


def loaded(options: argparse.Namespace) -> Config:
    """The config; one that lies in a run folder acts on that folder."""
    written = config_file.load(options.config, options.overrides)
    config = locations.of_config(options.config, written, options.overrides)
    if (
        Path(config.run).resolve() != Path(written.run).resolve()
        and launching.is_first()
    ):
        print(
            f"{options.config} lies in a run folder: this command acts on {config.run}, "
            f"although `run` there says {written.run}."
        )
    return config


def require_possible(config: Config, options: argparse.Namespace) -> None:
    """Refuse, before a folder is made, what these processes cannot train.

    Raises:
        BadInput: If the launcher, the device or the engine cannot do what the config
            asks for.
    """
    launching.require_agreement(config.training.mixed_precision)
    if options.engine == "ray":
        per_member = config.training.processes_per_member
        if per_member > 1:
            raise BadInput(
                f"training.processes_per_member is {per_member}, but --engine ray "
                "trains each member in one task. Set it to 1, or leave --engine ray out."
            )
        # Its nodes have other devices than the machine that asks them.
    elif config.training.mixed_precision == "fp16":
        from ensemble.training.process import require_precision

        require_precision(config.training)


def prepared(config: Config) -> tuple[Run, Plan]:
    """The run folder and what is to be trained there.

    Raises:
        BadInput: If the folder or the data are no good; a folder that was made for them
            then belongs to no run.
    """
    is_new = not folder.run_exists(config)
    run = folder.create(config)
    files.remove_abandoned(run.path)
    try:
        return run, drawing.prepare(run)
    except BadInput:
        if is_new:
            folder.remove_if_unused(run)
        raise


def standing(config: Config, n_members: int) -> str:
    """What stands in the run folder of a config that is only planned.

    Raises:
        BadInput: If that is a run with another config, or no run at all.
    """
    if not folder.run_exists(config):
        return f"\n{config.run} is not there yet."
    run = Run(Path(config.run), config)
    n_there = sum(run.member(member).exists() for member in range(n_members))
    return (
        f"\n{config.run} is there with this config: {n_there} of {n_members} members "
        "are trained."
    )


def print_plan(config: Config) -> None:
    """Print what a config promises and costs; nothing is written.

    Raises:
        BadInput: If data, sources or design contradict each other.
    """
    from ensemble.ablation import forecast
    from ensemble.training.description import describe

    there = locations.resolve(config, Path(config.run))
    drawn = drawing.draw(there)
    if there.data.stream:
        # Otherwise nobody reads them, and one that does not fit is found later.
        drawn.data.fingerprint()
    print(found(drawn), end="")
    print(describe(there, drawn))
    print(forecast.described(there, drawn))
    for line in classes.warnings(there, drawn):
        print(f"\n{line}")
    before = extension.earlier(there)
    if before is not None:
        print(extension.described(before, drawn.codes))
    print(standing(config, drawn.codes.n_members))


def main(arguments: Sequence[str]) -> int:
    """Train what is not trained yet; returns the exit code."""
    options = parse(arguments)
    config = loaded(options)
    requested = {name: getattr(options, name) for name in REQUIREMENTS}
    requested = {
        name: number for name, number in requested.items() if number is not None
    }
    if requested and not options.plan:
        raise BadInput(f"--{min(requested)} compares designs: say --plan too.")
    if requested:
        print(compared(locations.resolve(config, Path(config.run)), requested))
        return 0
    if options.plan:
        print_plan(config)
        return 0
    require_possible(config, options)
    run, ready = prepared(config)
    lineage.require_all(run.path)
    todo = (
        repair.affected(run, ready.removed)
        if options.repair
        else missing(run, ready, options)
    )
    extension.require_clean(run, todo)
    if options.repair and not todo:
        print(f"Nothing was removed from {run.path} that a member could do without.")
        return 0
    if todo and launching.is_first():
        print(found(ready), end="", flush=True)
    if todo and options.engine == "ray":
        code = train_on_cluster(run, todo, options)
    else:
        code = train_here(run, ready, todo, arguments)
    if options.repair and not code and launching.is_first():
        print(repair.finish(run, ready.removed))
    complete = not code and finish(run, ready.codes.n_members)
    if not code and launching.is_first():
        print(outcome(run, ready.codes.n_members, complete))
    return code
