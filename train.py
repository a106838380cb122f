"""Train an encoded ensemble: python train.py CONFIG [section.key=value ...]."""

import sys

from ensemble import cli

if __name__ == "__main__":
    sys.exit(cli.run("train"))
