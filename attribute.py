"""Ask whose data made a picture: python attribute.py RUN [COMMAND ...]."""

import sys

from ensemble import cli

if __name__ == "__main__":
    sys.exit(cli.run("attribute"))
