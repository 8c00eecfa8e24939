"""`python -m datasets.quality SRC DST`: shards → cleaner shards, with a report. Two more commands stand beside it:

  python -m datasets.quality train LABELLED.jsonl MODEL      train the classifier of unwanted text
  python -m datasets.quality contamination TRAIN EVAL        which evaluation samples do training shards give away

DST gets the shards under their names, report.json, report.html and dropped.jsonl (every dropped sample with its reason, what it
repeats, and both signals of unwanted text). The same SRC and settings give the same bytes. A folder called train is ./train.
"""

from __future__ import annotations

import sys

from datasets.quality import commands
from vlm import command


def main(arguments: list[str] | None = None) -> None:
    """Raises `ValueError` for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    named = {"train": commands.train, "contamination": commands.contamination}
    if arguments and arguments[0] in named:
        named[arguments[0]](arguments[1:])
    else:
        commands.clean(arguments, str(__doc__))


if __name__ == "__main__":
    command.run(main, after_interrupt=": nothing was written")
