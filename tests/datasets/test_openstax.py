"""The bar on real pages: positions filled at 2,048 tokens a row."""

import os
from pathlib import Path

import pytest

from datasets.convert.__main__ import main
from datasets.counts import Counts
from datasets.mixture import Mixture
from datasets.pack import Lane
from datasets.shards import ShardSource
from datasets.tokenizer import train_tokenizer
from vlm.image import ImageTransform
from vlm.processor import Processor
from vlm.sample import Text

REAL = Path(os.environ.get("VLM_DATA", "../shared/data")) / "openstax"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (VLM_DATA)")
def test_openstax_fills_97_percent_of_positions(tmp_path):
    main(["interleaved", str(REAL), str(tmp_path)])
    pages = ShardSource(tmp_path)
    texts = (s.text for i in range(60) for s in pages.get(0, i).segments if isinstance(s, Text))
    processor, total = Processor(train_tokenizer(texts, 4096), ImageTransform(8)), Counts()
    mixture = Mixture([pages], [1.0], [1])
    for number in range(2):
        lane = Lane(mixture, processor, lane=number, lanes=8, length=2048)
        while (step := lane.row())[0]:
            total += step[1]
    assert total.tokens > 0.97 * total.positions and total.cuts and not total.truncated
