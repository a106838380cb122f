"""python -m ensemble.cli COMMAND ...: what processes of one machine are started with."""

import sys

from ensemble import cli

if __name__ == "__main__":
    command = sys.argv.pop(1)
    sys.exit(cli.run(command))
