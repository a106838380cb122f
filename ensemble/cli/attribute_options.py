"""The command line of `attribute.py`: its commands, their options, and what they take."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ensemble.system import launching
from splits.errors import BadInput

if TYPE_CHECKING:
    pass


DEFAULT_QUERIES = 8
METHODS = ["exact", "differential", "adjoint"]
EVALUATIONS = ["lds", "deletion", "far", "quality"]


def parse(arguments: Sequence[str], description: str | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: What follows the script's name.
        description: What the script does, for --help.
    """
    parser = argparse.ArgumentParser(
        prog="attribute.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run folder that train.py made")
    parser.set_defaults(command="everything")
    commands = parser.add_subparsers(dest="command")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="demo", help="name of the queries")
    engine = argparse.ArgumentParser(add_help=False)
    launching.add_engine(engine)
    _add_generate(commands, named)
    _add_ablate(commands, named, engine)
    _add_score(commands, named, engine)
    _add_evaluate(commands, named)
    _add_verify(commands)
    _add_remove(commands)
    commands.add_parser("report", parents=[named], help="write report.html")
    options = parser.parse_args(arguments)
    options.command = options.command or "everything"
    return options


def _add_generate(commands: Any, named: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "generate", parents=[named], help="generate queries with the full ensemble"
    )
    command.add_argument("--n", type=int, default=DEFAULT_QUERIES, help="how many")
    command.add_argument("--seed", type=int, default=0, help="seed of the first")
    command.add_argument("--labels", help="labels for conditional members, like 3,5")


def _add_ablate(
    commands: Any, named: argparse.ArgumentParser, engine: argparse.ArgumentParser
) -> None:
    command = commands.add_parser(
        "ablate",
        parents=[named, engine],
        help="what each source's removal does to them",
    )
    command.add_argument("--method", default="exact", choices=METHODS)
    which = command.add_mutually_exclusive_group()
    add_sources(which, "remove just these, together")
    which.add_argument("--groups", metavar="COLUMN", help="remove by metadata column")
    command.add_argument(
        "--measurement",
        action="append",
        metavar="NAME",
        help="read only this off the pictures (may be repeated; default: all that need "
        "no argument): brightness, contrast, ssim, denoising_loss, similarity:SOURCE, "
        "similarity:FILE, logit:LABEL, features:MODULE:FUNCTION, MODULE:FUNCTION",
    )
    command.add_argument(
        "--accuracy",
        type=float,
        metavar="R",
        help="differential: rank correlation with exact that the road must reach "
        "(default: 0.96)",
    )
    command.add_argument(
        "--placebos", type=int, help="placebo codes (default: enough for p = 0.05)"
    )
    command.add_argument(
        "--max-memory", type=int, default=1024, metavar="MB", help="bound on memory"
    )


def _add_score(
    commands: Any, named: argparse.ArgumentParser, engine: argparse.ArgumentParser
) -> None:
    command = commands.add_parser(
        "score", parents=[named, engine], help="what gradient methods predict for them"
    )
    command.add_argument("--method", metavar="trak,das", help="one or several")
    command.add_argument("--list", action="store_true", help="show all methods")
    command.add_argument(
        "--model",
        default="ensemble",
        help="`ensemble` (default), `first-16` for so many of its members, a member's "
        "number, or `reference`, which `train.py --reference` trains on everything",
    )
    command.add_argument(
        "--dampings",
        metavar="0.1,1,10",
        help="score at each of these too, so that one can be chosen on held-out truth",
    )
    command.add_argument(
        "--per-image",
        action="store_true",
        help="keep the scores of single images too, METHOD.images.npy",
    )
    command.add_argument(
        "--max-memory", type=int, default=1024, metavar="MB", help="bound on memory"
    )


def _add_evaluate(commands: Any, named: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "evaluate",
        parents=[named],
        help="how far scores and ablation can be believed, by training again",
        description="Cost, in steps of training: lds SUBSETS x SEEDS x STEPS (57,600 "
        "for configs/digits.yaml, about as many as its own 32 members six times), "
        "deletion (1 + RANDOM x TOPS + methods x QUERIES x TOPS) x SEEDS x STEPS, quality "
        "SEEDS x (1 + members) x STEPS, far nothing. It is printed before the work "
        "starts. What is trained is kept and never trained again.",
    )
    command.add_argument("--what", required=True, choices=EVALUATIONS)
    command.add_argument("--method", metavar="trak,das", help="only these methods")
    command.add_argument(
        "--measure",
        metavar="loss|displacement",
        help="lds: of models of subsets, at the query; or from it to their picture of "
        "the same noise (default loss)",
    )
    for flag, meaning in {
        "subsets": "lds: random halves of the sources (default: as many as are measured, "
        "at least 64)",
        "seeds": "training seeds of all that is trained (default 3)",
        "steps": "optimiser steps of what is trained (default: the members')",
        "draws": "noise draws at which a loss is measured (default 128)",
        "queries": "deletion: the first so many (default 4)",
        "random": "deletion, far: random removals beside each (default 5)",
        "images": "quality: pictures of each model (default 512)",
    }.items():
        command.add_argument(f"--{flag}", type=int, metavar="N", help=meaning)
    command.add_argument(
        "--top", metavar="1,4", help="deletion: sources removed together (default 1,4)"
    )
    command.add_argument(
        "--damping",
        metavar="0.1,1,10",
        help="lds: score again with these, and choose on half of the subsets",
    )


def _add_verify(commands: Any) -> None:
    command = commands.add_parser(
        "verify", help="is the exactness certificate true of this run?"
    )
    add_sources(command, "only what concerns removing these, together")


def _add_remove(commands: Any) -> None:
    command = commands.add_parser(
        "remove",
        help="remove sources for good: silence the members that saw them",
        description="The request is recorded, with time and reason, and cannot be taken "
        "back. From then on no member votes that saw one of the sources; `train.py "
        "RUN/config.yaml --repair` trains those members again without.",
    )
    add_sources(command, "which", required=True)
    command.add_argument("--reason", required=True, help="why, for the record")
    command.add_argument(
        "--force",
        action="store_true",
        help="also if nobody is left to vote until members are repaired",
    )


def add_sources(parser: Any, purpose: str, required: bool = False) -> None:
    """The option that names sources; what it takes is the same everywhere."""
    parser.add_argument(
        "--sources",
        metavar="3,17",
        action="append",
        required=required,
        help=f"{purpose}: numbers or names with commas between them; number:7 is the number, "
        "name:7 the name; a name with a comma stands in double quotes; may be repeated",
    )


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        BadInput: If it is anything else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(
            f"{option} is {text!r}: whole numbers with commas between them are wanted, "
            "such as 3,17."
        ) from None


def positive(option: str, text: str) -> list[float]:
    """Numbers above zero with commas between them.

    Raises:
        BadInput: If it is anything else.
    """
    wanted = f"{option} is {text!r}: numbers above 0 are wanted, such as 0.1,1,10."
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(wanted) from None
    if not all(0 < number < float("inf") for number in found):
        raise BadInput(wanted)
    return found
