"""The commands: one module for each, and how they are started.

This module imports next to nothing, so that a request to stop is heard before the
libraries are imported, which takes seconds.
"""

import importlib
import sys

COMMANDS = ("train", "attribute", "write_shards")


def run(command: str) -> int:
    """Run a command with the arguments of this process; returns the exit code.

    Args:
        command: The name of a module in this room that has a `main`.
    """
    from ensemble.system import early

    early.install()
    from ensemble.system import exits

    module = importlib.import_module(f"ensemble.cli.{command}")
    return exits.run_guarded(module.main, sys.argv[1:])


def train_command() -> int:
    """The console script `encoded-train`."""
    return run("train")


def attribute_command() -> int:
    """The console script `encoded-attribute`."""
    return run("attribute")
