"""Killed at random moments and resumed with other numbers of ranks and workers: the stream is the one of an unbroken run."""

import itertools
import json
import random
import time
from collections import Counter

import pytest
from dataset_fakes import Rotten, Words, processor
from torch.testing import assert_close

from datasets.document import read_part
from datasets.loader import MixtureLoader, concatenate
from datasets.mixture import Mixture
from datasets.source import BadSample
from vlm.batch import Batch

PROCESSOR = processor()
ROWS, LENGTH = 8, 48
WORLDS, WORKERS = (1, 2, 4), (0, 1, 3)


def mixture():
    """Every document's text names its source, epoch and index, and all sources end."""
    sources = [Words("a", 400), Words("p", 300, longest=3, images=2), Words("q", 200, longest=5, given=True), Rotten("r", 90)]
    return Mixture(sources, [4, 3, 2, 1], [2] * 4)


def stream(state, world, workers):
    """Global batches with the state after each, put together from every rank's."""
    loaders = [
        MixtureLoader(mixture(), PROCESSOR, rows=ROWS, length=LENGTH, rank=rank, world=world, workers=workers, state=state)
        for rank in range(world)
    ]
    for parts in zip(*map(iter, loaders), strict=True):
        state = {lane: s for part in parts for lane, s in part.state.items()}
        yield concatenate([part.batch for part in parts]), json.dumps(state)


def same(a: Batch, b: Batch) -> None:
    for name in Batch.__dataclass_fields__:
        assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


def tokens_of(batches):
    return Counter(t for batch in batches for t in batch.tokens[batch.document >= 0].tolist())


def killed(moments: int, seed: int, workers: tuple[int, ...]) -> None:
    chance = random.Random(seed)
    reference = [batch for batch, _ in itertools.takewhile(lambda step: (step[0].document >= 0).any(), stream(None, 1, 0))]
    stops = sorted(chance.sample(range(1, len(reference)), moments))
    trained, state, kept = [], None, 0
    for i, stop in enumerate([*stops, len(reference)]):
        running = stream(state and json.loads(state), WORLDS[i % 3], workers[i // 3 % len(workers)])
        for _, (batch, after) in zip(range(stop - len(trained)), running, strict=False):
            trained.append(batch)
            if len(trained) % 3 == 0 or len(trained) == len(reference):  # a checkpoint
                kept, state = len(trained), after
        del running  # killed: what was trained since the last checkpoint is lost with the weights, what was prefetched, too
        trained = trained[:kept]
    assert len(trained) == len(reference)
    for ours, theirs in zip(trained, reference, strict=True):
        same(ours, theirs)
    assert tokens_of(trained) == tokens_of(reference) == whole()


def whole():
    """Tokens of all documents that can be used, as often as their epochs say."""
    tokens = Counter()
    for source, epoch in itertools.product(mixture().sources, range(2)):
        for index in range(len(source)):
            try:
                part = read_part(source.get(epoch, index), PROCESSOR, number=0, length=LENGTH, max_images=64)
                PROCESSOR.with_pixels(part.document)
            except (BadSample, ValueError):
                continue
            tokens.update(part.document.tokens.tolist())
    return tokens


def test_killed_at_random_moments():
    killed(9, seed=0, workers=(0,))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_killed_with_workers():
    killed(3, seed=1, workers=(3,))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_fifty_random_moments(seed):
    killed(50, seed, WORKERS)


def test_a_resume_starts_at_once_whatever_the_position():
    """A billion samples into a run: the next batch is computed, not walked to."""
    endless = Mixture([Words("a", 10**9, longest=2), Words("b", 10**7, longest=2)], [3, 1])
    state = {str(lane): {"draws": 10**9 // ROWS, "pending": []} for lane in range(ROWS)}
    start = time.monotonic()
    step = next(iter(MixtureLoader(endless, PROCESSOR, rows=ROWS, length=LENGTH, state=state)))
    assert time.monotonic() - start < 2 and step.counts.tokens
    assert all(lane["draws"] > 10**9 // ROWS for lane in step.state.values())
