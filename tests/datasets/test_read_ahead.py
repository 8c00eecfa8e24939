"""Reading ahead: sooner, and nothing else. Rows, counts and states are those of a lane that reads when it must."""

import itertools

import pytest
from dataset_fakes import Rotten, Words, processor

from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.pack import Lane, Pending
from vlm.image import ImageTransform

PROCESSOR = processor()


def lane(state=None, **options):
    sources = [Words("a", 19, longest=5), Words("q", 17, longest=9, given=True), Rotten("r", 21, longest=4, images=2)]
    return Lane(Mixture(sources, [2, 1, 1], [2, 1, 2]), PROCESSOR, lane=0, lanes=1, length=60, state=state, **options)


def ahead(packer):
    return [document for _, document in packer._ahead if isinstance(document, Pending)]


def assert_same_row(ours, theirs):
    (row, counts), (other, other_counts) = ours.row(), theirs.row()
    assert counts == other_counts and ours.state() == theirs.state()
    for a, b in zip(row, other, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist() and a.learn.tolist() == b.learn.tolist()
        assert all(p == q and (x == y).all() for (p, x, _), (q, y, _) in zip(a.media, b.media, strict=True))
    return row


@pytest.mark.parametrize("options", [{}, {"window": 1}, {"window": 3}, {"waiting": 0}, {"waiting": 150}])
def test_rows_counts_and_states_are_those_of_reading_when_it_is_needed(options):
    reading, plain, most = lane(**options), lane(**options), 0
    while True:
        reading.read_ahead()
        most = max(most, len(reading._ahead))
        if not assert_same_row(reading, plain):
            break
    assert most <= reading.window and (most > 0) == (options != {"waiting": 0})


def test_a_resume_reads_again_what_was_read_ahead():
    whole, states = lane(), []
    while whole.row()[0]:
        whole.read_ahead()
        states.append(whole.state())
    for state in states:
        resumed, plain = lane(state), lane(state)
        while assert_same_row(resumed, plain):
            resumed.read_ahead()


def test_pictures_that_were_read_ahead_are_within_the_budget():
    packer, most = lane(window=6, waiting=1200), 0
    while packer.row()[0]:
        packer.read_ahead()
        most = max(most, sum(document.bytes for document in ahead(packer)))
        assert sum(document.bytes for document in (*packer.pending, *ahead(packer))) <= 1200
    assert most


def test_nothing_is_read_ahead_before_a_first_row_or_where_rows_draw_nothing():
    packer = lane()
    packer.read_ahead()
    assert not packer._ahead
    long = Words("a", 9)
    long.get = lambda epoch, index: Words("a", 9, longest=100).get(0, 14)  # one document over several rows
    packer = Lane(Mixture([long], [1.0]), PROCESSOR, lane=0, lanes=1, length=40)
    packer.row()
    packer.read_ahead()
    packer.row()
    packer.read_ahead()
    held = len(packer._ahead)
    packer.row()
    packer.read_ahead()
    assert len(packer._ahead) == held


def test_the_loader_reads_for_all_its_lanes_before_it_decodes(monkeypatch):
    events, decode = [], ImageTransform.__call__
    source = Words("p", 500, longest=2, images=1)
    get = source.get
    source.get = lambda *draw: (events.append("read"), get(*draw))[1]
    monkeypatch.setattr(ImageTransform, "__call__", lambda *args: (events.append("decode"), decode(*args))[1])
    steps = iter(MixtureLoader(Mixture([source], [1.0]), PROCESSOR, rows=4, length=50, micro_batches=2))
    for _ in range(6):
        next(steps)
    events.clear()
    documents = sum(step.counts.documents for step in itertools.islice(steps, 10))
    turns = sum(kind == "read" for kind, _ in itertools.groupby(events))
    assert documents > 60 and turns < documents / 3
