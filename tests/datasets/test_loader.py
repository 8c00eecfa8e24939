import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections import Counter

import pytest
import torch
from dataset_fakes import Rotten, Words, processor
from torch.testing import assert_close

from datasets.loader import MixtureLoader, WorkerLost, concatenate
from datasets.mixture import Mixture
from datasets.pack import Lane
from vlm.batch import IGNORE, Batch

PROCESSOR = processor()
ROWS, LENGTH = 6, 48


def mixture(epochs=None):
    sources = [Words("a", 40), Words("p", 30, longest=3, images=2), Words("q", 20, longest=5, given=True), Rotten("r", 9)]
    return Mixture(sources, [4, 3, 2, 1], [epochs] * 4)


def loader(world=1, rank=0, **options):
    options = {"mixture": mixture(), "rows": ROWS, "length": LENGTH} | options
    return MixtureLoader(options.pop("mixture"), PROCESSOR, world=world, rank=rank, **options)


def steps(count, state=None, world=1, **options):
    """The next global batches, and the state after them."""
    ranks = [itertools.islice(iter(loader(world, rank, state=state, **options)), count) for rank in range(world)]
    batches = []
    for parts in zip(*ranks, strict=True):
        batches.append(concatenate([p.batch for p in parts]))
        state = {lane: s for p in parts for lane, s in p.state.items()}
    return batches, json.loads(json.dumps(state))


def assert_same(a: Batch, b: Batch):
    for name in Batch.__dataclass_fields__:
        assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def reference():
    return steps(14)[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (6, 0), (1, 2), (1, 4), (2, 2)])
def test_the_sequence_is_the_same_for_any_world_and_workers(reference, world, workers):
    for ours, theirs in zip(steps(5, world=world, workers=workers)[0], reference, strict=False):
        assert_same(ours, theirs)


def test_resume_across_worlds_and_workers(reference):
    state, got = None, []
    stops = sorted(random.Random(0).sample(range(1, 14), 3))
    plan = zip([0, *stops], [*stops, 14], [(1, 0), (2, 2), (3, 0), (1, 2)], strict=True)
    for start, stop, (world, workers) in plan:
        batches, state = steps(stop - start, state, world, workers=workers)
        got += batches
    assert len(got) == 14
    for ours, theirs in zip(got, reference, strict=True):
        assert_same(ours, theirs)


def test_state_belongs_to_the_batch_though_workers_are_ahead(reference):
    stream = iter(loader(workers=2))
    for _ in range(3):
        state = next(stream).state
    del stream
    assert_same(steps(1, state)[0][0], reference[3])


def test_micro_batches_are_the_step_in_parts(reference):
    parts = list(itertools.islice(iter(loader(micro_batches=3, workers=2)), 6))
    for step in range(2):
        three = parts[3 * step : 3 * step + 3]
        assert_same(concatenate([p.batch for p in three]), reference[step])
        assert [p.last for p in three] == [False, False, True]
        assert [p.state is None for p in three] == [True, True, False]
        learnt = sum(int((p.batch.labels != IGNORE).sum()) for p in three)
        assert {p.step_learnt for p in three} == {learnt} == {sum(p.counts.learnt for p in three)}
    assert_same(steps(1, parts[2].state)[0][0], reference[1])


def test_counts_describe_the_batch():
    for step in itertools.islice(iter(loader()), 4):
        assert step.counts.tokens == int((step.batch.document >= 0).sum())
        assert step.counts.learnt == int((step.batch.labels != IGNORE).sum())
        assert step.counts.images == len(step.batch.images)


def test_finite_mixture_is_seen_once_then_padding_for_ever():
    stream = iter(loader(mixture=mixture(epochs=2), world=1))
    drawn = Counter()
    while (step := next(stream)).counts.tokens:
        drawn += step.counts.drawn
    assert drawn == {"a": 80, "p": 60, "q": 40, "r": 18}
    for step in itertools.islice(stream, 3):
        assert step.counts.tokens == step.step_learnt == 0
        assert (step.batch.document == -1).all() and step.batch.tokens.shape == (ROWS, LENGTH)


def test_workers_leave_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(loader(workers=2)))
    assert torch.equal(before, torch.get_rng_state())


def test_many_micro_batches_take_few_open_files():
    few, whole = loader(rows=96, micro_batches=96, workers=2), loader(rows=96)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 48, before[1]))
    try:
        parts = list(itertools.islice(iter(few), 3 * 96))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for place, step in enumerate(itertools.islice(iter(whole), 3)):
        assert_same(concatenate([part.batch for part in parts[96 * place : 96 * place + 96]]), step.batch)


def test_a_worker_that_is_killed_is_one_line_where_its_batch_is_asked_for():
    handler = signal.getsignal(signal.SIGCHLD)
    stream = iter(loader(workers=2))
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) is handler
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.2)  # nothing is raised here
    with pytest.raises(WorkerLost, match=r"^a data worker has died.*run\.workers") as error:
        list(itertools.islice(stream, 20))
    assert "\n" not in str(error.value)


def test_the_lanes_of_a_process_share_its_room_for_pictures(monkeypatch):
    lanes = []
    monkeypatch.setattr("datasets.loader.Lane", lambda *a, **options: lanes.append(Lane(*a, **options)) or lanes[-1])
    monkeypatch.setattr("datasets.loader.WAITING", 600)
    next(iter(loader()))
    assert len(lanes) == ROWS and {lane.waiting for lane in lanes} == {600 // ROWS}


def test_a_failed_step_is_a_step_of_padding():
    for options in ({"world": 3, "rank": 1}, {"micro_batches": 2}):
        one = loader(**options)
        failed, step = one.failed(ValueError("x")), next(iter(one))
        assert failed.batch.tokens.shape == step.batch.tokens.shape and (failed.batch.document == -1).all()
        assert failed.step_learnt == failed.counts.tokens == 0 and failed.state is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_useless_source_is_one_line(monkeypatch, workers):
    monkeypatch.setattr("datasets.pack.MAX_BAD", 30)
    bad = _OnlyBad("bad", 5)
    with pytest.raises(ValueError, match=r"^30 samples in a row cannot be used, the last of source 'bad'.*$"):
        next(iter(loader(mixture=Mixture([bad], [1]), workers=workers)))


class _OnlyBad(Rotten):
    def get(self, epoch, index):
        return super().get(epoch, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 5, "world": 2}, "5 rows cannot be shared evenly by 2 ranks with 1 micro-batches"),
        ({"rows": 6, "micro_batches": 4}, "6 rows cannot be shared evenly by 1 ranks with 4"),
        ({"length": 1}, "rows of 1 tokens"),
        ({"state": {"0": {}, "1": {}}}, "the data state has 2 lanes, the batch 6 rows"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        loader(**options)


def test_every_lane_sees_every_source():
    """A mixture that repeats with a period dividing the number of rows must not give a lane one source for ever."""
    sources = Mixture([Words("a", 4000), Words("b", 4000)], [1, 3], [None, None])
    drawn = [set() for _ in range(8)]
    for lane, seen in enumerate(drawn):
        one = Lane(sources, PROCESSOR, lane=lane, lanes=8, length=LENGTH)
        for _ in range(40):
            seen |= set(one.row()[1].drawn)
    assert all(seen == {"a", "b"} for seen in drawn)


def test_the_lanes_together_take_each_draw_once():
    lanes = [Lane(mixture(), PROCESSOR, lane=lane, lanes=ROWS, length=LENGTH) for lane in range(ROWS)]
    numbers = []
    for lane in lanes:
        for lane.draws in range(5):
            numbers.append(lane._number())
    assert sorted(numbers) == list(range(5 * ROWS))
