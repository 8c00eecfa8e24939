import io
import tracemalloc
from collections import Counter
from dataclasses import dataclass

import numpy as np
import PIL.Image
import pytest
from dataset_fakes import Rotten, Words, png, processor
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import document
from datasets.counts import Counts
from datasets.mixture import Mixture
from datasets.pack import Lane
from datasets.source import BadSample
from vlm.batch import IGNORE
from vlm.sample import Drawing, Image, Sample, Text, Video

PROCESSOR = processor()


def lane(sources, epochs=1, length=32, state=None, **options):
    m = Mixture(sources, [1.0] * len(sources), [epochs] * len(sources))
    return Lane(m, PROCESSOR, lane=0, lanes=1, length=length, state=state, **options)


def rows_of(lane):
    rows = []
    while True:
        row, _ = lane.row()
        if not row:
            return rows
        rows.append(row)


def whole(source, epochs=1):
    """All tokens of a source's documents, one after the other."""
    return [PROCESSOR.encode(source.get(e, i)) for e in range(epochs) for i in range(len(source))]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 20), st.integers(20, 90), st.integers(1, 5), st.integers(0, 3))
def test_no_token_is_lost_or_twice(plain, paged, longest, length, window, images):
    sources = [Words("a", plain, longest=longest), Words("b", paged, longest=longest, images=images)]
    rows = rows_of(lane(sources, length=length, window=window, max_images=4))
    packed = Counter(t for row in rows for d in row for t in d.tokens.tolist())
    assert packed == Counter(t for s in sources for d in whole(s) for t in d.tokens.tolist())
    assert sum(len(d.media) for row in rows for d in row) == images * paged
    assert all(sum(map(len, row)) <= length for row in rows)
    assert all(sum(len(p) for d in row for _, p, _ in d.media) <= 4 for row in rows)


def test_cut_text_goes_on_where_it_stopped():
    source = Words("a", 1, longest=1)
    source.get = lambda epoch, index: Words("a", 99, longest=50).get(0, 7)  # one document over several rows
    packer = lane([source], length=40)
    pieces = [d for row in rows_of(packer) for d in row]
    assert len(pieces) > 3
    assert np.concatenate([p.tokens for p in pieces]).tolist() == PROCESSOR.encode(source.get(0, 0)).tokens.tolist()


def test_documents_stay_apart_and_see_their_own_images():
    source = Words("p", 8, longest=2, images=2)
    rows = rows_of(lane([source], length=64))
    batch = PROCESSOR.collate(rows, 64)
    for b in range(len(rows)):
        for d in batch.document[b].unique().tolist():
            here = batch.document[b] == d
            if d < 0:
                assert (batch.labels[b][here] == IGNORE).all() and (batch.image_index[b][here] == -1).all()
                continue
            assert batch.positions[b][here].tolist() == list(range(int(here.sum())))
            seen = [m for m in batch.image_index[b][here].unique().tolist() if m >= 0]
            assert [batch.media_document[m].tolist() for m in seen] == [[b, d]] * 2
            text = PROCESSOR.decode(batch.tokens[b][here].tolist())
            index = int(text.split(".")[1].split()[0])
            assert [int(batch.images[m].unique()) for m in seen] == [index * 3, index * 3 + 1]


def test_a_question_is_never_parted_from_its_answer():
    rows = rows_of(lane([Words("q", 10, longest=4, given=True), Words("t", 10)], length=48))
    questions = [d for row in rows for d in row if b"q" in PROCESSOR.decode(d.tokens.tolist()).encode()]
    assert len(questions) == 10 and all(d.tokens[0] == PROCESSOR.bos_id and d.tokens[-1] == PROCESSOR.eos_id for d in questions)


def test_a_question_longer_than_a_row_loses_its_end_and_is_counted():
    packer = lane([Words("q", 10, longest=20, given=True)], length=32)
    counts = [packer.row()[1] for _ in range(40)]
    long = sum(len(d) > 32 for d in whole(Words("q", 10, longest=20, given=True)))
    assert sum(c.truncated for c in counts) == long > 0
    assert sum(c.documents for c in counts) == 10


def test_a_long_page_is_cut_before_an_image():
    packer = lane([Words("p", 1, longest=1, images=6)], length=10, max_images=4)
    first, second = rows_of(packer)
    assert [len(d.media) for d in first] == [4] and [len(d.media) for d in second] == [2]
    assert second[0].tokens[0] == PROCESSOR.image_id


def test_bad_samples_are_counted_by_source_and_reason(caplog):
    packer = lane([Rotten("r", 9, longest=1), Words("a", 3)], length=64)
    counts = [packer.row()[1] for _ in range(10)]
    skipped = sum((c.skipped for c in counts), Counter())
    assert skipped == {("r", "rotten"): 3, ("r", "broken media"): 3}
    assert sum((c.drawn for c in counts), Counter()) == {"r": 9, "a": 3}
    assert len(caplog.records) == 2 and "r1" in caplog.text  # the first of each kind is named


def test_nothing_to_learn_within_a_row():
    packer = lane([Words("p", 2, longest=1, images=8, given=True), Words("a", 1)], length=64, max_images=3)
    counts = packer.row()[1]
    assert counts.skipped == {("p", "nothing to learn"): 2}


def test_only_bad_samples_is_an_error_not_a_loop(monkeypatch):
    monkeypatch.setattr("datasets.pack.MAX_BAD", 20)
    source = Rotten("r", 3)
    source.get = lambda epoch, index: Rotten.get(source, epoch, 1)
    with pytest.raises(ValueError, match="20 samples in a row cannot be used, the last of source 'r': rotten: r1"):
        lane([source], epochs=None).row()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.integers(1, 9), st.integers(20, 70))
def test_a_lane_resumes_anywhere(steps, window, length):
    sources = [Words("a", 9), Words("b", 5, images=1, longest=3), Words("q", 6, longest=4, given=True), Rotten("r", 5)]
    options = {"epochs": None, "length": length, "window": window}
    original = lane(sources, **options)
    for _ in range(steps):
        original.row()
    resumed = lane(sources, state=original.state(), **options)
    for _ in range(5):
        (a, counts_a), (b, counts_b) = original.row(), resumed.row()
        assert [d.tokens.tolist() for d in a] == [d.tokens.tolist() for d in b] and counts_a == counts_b
    assert original.state() == resumed.state()


def test_a_clip_over_the_limit_is_not_decoded():
    source = Words("v", 1)
    source.get = lambda *_: Sample((Video((b"no picture",) * 5), Text("x")), key="v")
    _, counts = lane([source], max_images=4).row()
    assert counts.skipped == {("v", "clip too long"): 1}


@pytest.mark.parametrize("begun", [True, False])
def test_a_waiting_document_that_has_gone_bad_is_dropped_and_counted_on_resume(begun):
    original = lane([Words("a", 8, longest=9)], window=3, length=24)
    before = original.row()[1].drawn
    state, source = original.state(), Words("a", 8, longest=9)
    lost = next(sample for _, _, sample, offset, _ in state["pending"] if begun == (offset > 0))
    get = source.get

    def rot(epoch, index):
        if index == lost:
            raise BadSample("rotten")
        return get(epoch, index)

    source.get = rot
    resumed = lane([source], window=3, length=24, state=state)
    row, counts = resumed.row()
    assert row and counts.skipped == {("a", "rotten"): 1}
    while (step := resumed.row())[0]:
        counts += step[1]
    assert counts.skipped == {("a", "rotten"): 1} and (before + counts.drawn) == {"a": 8}


def test_pages_fill_rows_and_images_keep_with_their_text():
    """Cut for a row's end only before an image, or before the first: no text is parted from the image before it."""
    source = Words("p", 300)

    def page(epoch, index):
        segments = [Text(f"page {index} begins. ")]
        for i in range(1 + index % 4):
            segments += [Image(png(i)), Text(f"what picture {i} of page {index} shows" + "." * (index % 9))]
        return Sample(tuple(segments), key=str(index))

    source.get = page
    packer, total = lane([source], length=500), Counts()
    rows = []
    while (step := packer.row())[0]:
        rows.append(step[0])
        total += step[1]
    assert total.tokens / total.positions > 0.97 and total.cuts > 5 and total.cropped == 0
    for part in (d for row in rows for d in row):
        text = PROCESSOR.decode(part.tokens.tolist())
        described = text.count("what picture")
        assert described == len(part.media)  # each description has its own picture before it
        assert described == text.count("shows")


def test_figures_by_source_add_up():
    sources = [Words("p", 12, images=2), Words("q", 12, longest=20, given=True), Rotten("r", 9)]
    packer, total = lane(sources, length=48), Counts()
    while (step := packer.row())[0]:
        total += step[1]
    assert sum(total.source_tokens.values()) == total.tokens and sum(total.source_images.values()) == total.images
    assert total.source_images["p"] == 24 and total.drawn == {"p": 12, "q": 12, "r": 9}
    questions = whole(Words("q", 12, longest=20, given=True))
    assert total.cropped == sum(max(0, len(d) - 48) for d in questions) > 0
    assert [(e.source, e.reason) for e in total.examples].count(("r", "rotten")) == 3


def test_a_very_long_text_is_read_in_parts_and_resumed_in_any(monkeypatch):
    monkeypatch.setattr(document, "PART", 500)
    source, text = Words("a", 1), "".join(f"line {i} of a long text\n" for i in range(200))
    source.get = lambda *_: Sample((Text(text),), "long")
    packer = lane([source], length=90)
    seen, states = [], []
    while (step := packer.row())[0]:
        seen += [t for d in step[0] for t in d.tokens.tolist()]
        states.append((len(seen), packer.state()))
        assert all(len(w.document) <= 501 for w in packer.pending)
    assert seen == PROCESSOR.encode(source.get(0, 0)).tokens.tolist()
    for count, state in states[::7]:
        resumed, rest = lane([source], length=90, state=state), []
        while row := resumed.row()[0]:
            rest += [t for d in row for t in d.tokens.tolist()]
        assert seen[:count] + rest == seen


def test_a_sample_counts_when_a_row_takes_it():
    packer, total = lane([Words("a", 30), Words("q", 30, longest=20, given=True), Rotten("r", 30)], length=48), Counts()
    while (step := packer.row())[0]:
        total += step[1]
        bad = Counter({"r": sum(n for (name, _), n in total.skipped.items() if name == "r")})
        waiting = sum(offset == part == 0 for *_, offset, part in packer.state()["pending"])
        assert total.drawn.total() == total.documents + bad.total()  # nothing that only waits
        assert packer.draws == total.drawn.total() + waiting
    assert total.drawn == {"a": 30, "q": 30, "r": 30} and waiting == 0


def test_lost_ends_count_with_the_rows_that_lost_them():
    packer = lane([Words("q", 9, longest=30, given=True)], length=32)
    first = packer.row()[1]
    assert (first.truncated, first.documents) == (0, 1) and any(w.cropped for w in packer.pending)


class _Pictures(Words):
    """Pages with noise for pictures, which no codec makes small; `fetched` counts reads."""

    fetched = 0

    def get(self, epoch, index):
        type(self).fetched += 1
        noise = np.random.default_rng(index).integers(0, 256, (120, 120, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(noise).save(buffer, "PNG")
        parts = (part for i in range(3) for part in (Image(buffer.getvalue()), Text(f"{index}.{i} " * (3 + index % 9))))
        return Sample(tuple(parts), str(index))


@pytest.mark.parametrize("room", [0, 200_000])
def test_waiting_pictures_have_a_budget_and_rows_stay_the_same(room):
    every = lane([_Pictures("p", 20)], length=100, window=6)
    few = lane([_Pictures("p", 20)], length=100, window=6, waiting=room)
    state = None
    while (step := every.row())[0]:
        row, counts = few.row()
        assert counts == step[1] and few.state() == every.state()
        for ours, theirs in zip(row, step[0], strict=True):
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert all((a[1] == b[1]).all() for a, b in zip(ours.media, theirs.media, strict=True))
        assert sum(w.bytes for w in few.pending) <= room
        state = state or (counts.cuts and few.state())
    assert not few.row()[0]
    resumed = lane([_Pictures("p", 20)], length=100, window=6, waiting=room, state=state)
    assert sum(w.bytes for w in resumed.pending) <= room < sum(w.bytes for w in lane([_Pictures("p", 20)], state=state).pending)


class _Drawings(Words):
    """Questions over pictures that are drawn; `rendered` has the index of each drawing."""

    def __init__(self, size):
        super().__init__("d", size, longest=3, given=True)
        self.rendered = []

    def get(self, epoch, index):
        return Sample((Image(_Drawing(self.rendered, index)), *super().get(epoch, index).segments), key=f"{epoch}.{index}")


@dataclass(frozen=True)
class _Drawing(Drawing):
    rendered: list
    index: int

    def render(self):
        self.rendered.append(self.index)
        return PIL.Image.new("RGB", (4, 4), (self.index,) * 3)


def test_drawings_wait_undrawn_and_are_drawn_once_whatever_the_budget():
    source = _Drawings(24)
    packer = lane([source], length=100, window=6, waiting=0)
    row, state = packer.row()[0], packer.state()
    taken = [int(document.media[0][1][0, 0, 0, 0]) for document in row]
    assert source.rendered == taken and len(packer.pending) == 6 and not packer._bytes()
    resumed = lane([source], length=100, window=6, state=state)
    assert source.rendered == taken  # a resume draws nothing
    rows_of(resumed)
    assert sorted(source.rendered) == list(range(24))


def test_a_picture_that_is_gone_when_it_is_fetched_again_is_counted():
    source = _Pictures("p", 3)
    packer = lane([source], length=60, waiting=0)
    packer._refill(Counts())

    def gone(epoch, index):
        raise BadSample("gone")

    source.get = gone
    row, counts = packer.row()
    assert not row and counts.skipped == {("p", "gone"): 3} and counts.drawn == {"p": 3}


def test_the_end_of_a_row_is_filled_by_text_before_pages():
    page, text = Words("p", 1, longest=1, images=2), Words("t", 1, longest=1)
    pages = Sample((Text("a page begins with a long text. " * 3), Image(png(1)), Text("and goes on")), "p")
    page.get, text.get = lambda *_: pages, lambda *_: Sample((Text("plain prose, and more of it. " * 9),), "t")
    short = Words("s", 1, longest=1)
    packer = Lane(Mixture([short, page, text], [1] * 3, [1] * 3), PROCESSOR, lane=0, lanes=1, length=64)
    packer._refill(Counts())
    order = [packer.mixture.names[w.draw.source] for w in packer.pending]
    packer.pending.sort(key=lambda w: "spt".index(packer.mixture.names[w.draw.source]))  # the page is older than the text
    row, counts = packer.row()
    assert sorted(order) == ["p", "s", "t"] and counts.source_tokens["t"] > 0 and counts.source_tokens["p"] == 0
    assert sum(map(len, row)) == 64


def test_more_bad_samples_may_follow_each_other_where_more_may_be_bad(monkeypatch):
    monkeypatch.setattr("datasets.pack.MAX_BAD", 20)
    source = Words("a", 400)
    get = source.get

    def bad(epoch, index):
        if index < 300:
            raise BadSample("rotten")
        return get(epoch, index)

    source.get = bad
    for share, stops in ((0.5, 40), (0.9, 200), (0.95, None), (1.0, None)):
        packer = lane([source], max_skipped=share)
        if stops is None:
            assert packer.row()[0]
        else:
            with pytest.raises(ValueError, match=f"^{stops} samples in a row cannot be used"):
                packer.row()
    source.get = lambda epoch, index: bad(epoch, 0 if index % 5 else 399)
    assert rows_of(lane([source], window=2))  # 320 bad ones, never more than four in a row
    source.get = lambda epoch, index: bad(epoch, 0)
    with pytest.raises(
        ValueError, match=r"^400 samples in a row cannot be used"
    ):  # a whole pass: an endless source has no more
        lane([source], epochs=None, max_skipped=1.0).row()


def test_ten_million_tokens_take_little_memory():
    source = Words("a", 1)
    source.get = lambda *_: Sample((Text("a line of text\n" * 700_000),), "huge")
    packer = lane([source], length=2048)
    tracemalloc.start()
    for _ in range(20):
        counts = packer.row()[1]
        assert counts.tokens == 2048
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6 and packer.state()["pending"][0][:3] == [0, 0, 0]


def test_a_long_document_with_given_text_is_left_out(monkeypatch):
    monkeypatch.setattr(document, "LONGEST", 100)
    _, counts = lane([Words("q", 1, given=True), _Long("long", 1, given=True)], length=64).row()
    assert counts.skipped == {("long", "too long"): 1}


class _Long(Words):
    def get(self, epoch, index):
        return Sample((Text("?", learn=False), Text("x" * 200)), "long")
