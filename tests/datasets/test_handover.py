"""Pictures come out of the shared buffers as they went in, for as long as the receiver may read them."""

import itertools
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from dataset_fakes import Words, processor

from datasets.handover import AHEAD, Receiver, Sender
from datasets.loader import MixtureLoader
from datasets.mixture import Mixture

PROCESSOR = processor()


def pictures(*counts):
    return [torch.randint(0, 256, (count, 3, 5, 4), dtype=torch.uint8) for count in counts]


def test_a_part_is_whole_until_one_more_than_may_be_ahead_is_asked_for():
    senders, receiver = [Sender(worker) for worker in range(2)], Receiver()
    sent = []  # (what went in, what came out), by worker
    for counts in [(3,), (1, 2), (9,), (0,), (0, 0), (40, 2), (0, 1), *[(5, 3)] * 6]:
        for sender in senders:
            images = pictures(*counts)
            parcel = pickle.loads(ForkingPickler.dumps(sender.put(images)))
            sent.append((torch.cat(images), receiver.take(parcel)))
        for expected, found in sent[-2 * (AHEAD + 1) :]:
            assert found.shape == expected.shape and torch.equal(found, expected)


def test_a_buffer_is_sent_when_it_is_new_and_not_again():
    sender = Sender(0)
    new = [sender.put(pictures(count)).buffer is not None for count in (8, 8, 8, 8, 9, 10, 11, 8, 8)]
    assert new == [True] * 3 + [False] * 3 + [True] + [False] * 2  # a quarter more than the first was has room


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_batches_that_are_kept_are_not_written_over(workers, micro_batches):
    def batches(workers):
        mixture = Mixture([Words("p", 300, longest=3, images=2), Words("a", 300)], [1.0, 1.0])
        loader = MixtureLoader(mixture, PROCESSOR, rows=4, length=64, workers=workers, micro_batches=micro_batches)
        return [step.batch for step in itertools.islice(loader, 16)]

    for ours, alone in zip(batches(workers), batches(0), strict=True):
        assert torch.equal(ours.images, alone.images) and torch.equal(ours.tokens, alone.tokens)
