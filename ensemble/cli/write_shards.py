"""Write coded shards: python -m ensemble.cli.write_shards CONFIG OUT_FOLDER.

The command draws the code book of a config and writes its images as WebDataset shards,
images with the same code side by side. It prints what members will read for each byte
that they train on, and the `data:` section that reads the shards. With --plan nothing
is written.
"""

import sys

if __name__ == "__main__":
    from ensemble import cli

    sys.exit(cli.run("write_shards"))

import argparse
from collections.abc import Sequence
from pathlib import Path

from ensemble.data import datasets
from ensemble.provenance.coded_shards import data_section, laid_out, write
from ensemble.run import config_file
from ensemble.system import text
from splits import shard_order


def main(arguments: Sequence[str]) -> int:
    """Write the images of a config as shards; returns the exit code."""
    options = parse(arguments)
    config = config_file.load(options.config)
    data = datasets.load(config.data)
    coded = laid_out(config, data, options.per_shard, options.read_bytes)
    sizes = coded.sizes() if options.plan else write(coded, options.out_folder)
    found = coded.reading(sizes, options.read_bytes)
    for line in datasets.describe(data):
        print(f"# {text.visible(line)}")
    for line in shard_order.describe(found).splitlines():
        print(f"# {line}")
    print(data_section(config.data, options.out_folder, len(coded.per_shard)))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m ensemble.cli.write_shards")
    parser.add_argument("config", help="YAML file whose images and codes to take")
    parser.add_argument("out_folder", type=Path, help="new folder for the shards")
    parser.add_argument(
        "--per-shard", type=int, default=1000, help="the most images in each"
    )
    parser.add_argument(
        "--read-bytes",
        type=int,
        default=shard_order.PAGE_BYTES,
        help="how much is read at once where shards will lie (default: %(default)s)",
    )
    parser.add_argument(
        "--plan", action="store_true", help="say what members will read; write nothing"
    )
    return parser.parse_args(arguments)
