"""python -m ensemble.cli COMMAND ...: what processes of one machine are started with."""

import sys

from ensemble import cli

if __name__ == "__main__":
    command = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if command not in cli.COMMANDS:
        print(
            f"error: {command!r} is no command; allowed: {', '.join(cli.COMMANDS)}. "
            "Write python -m ensemble.cli COMMAND, and --help behind it.",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(cli.run(command))
