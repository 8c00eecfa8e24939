"""Pictures come out of the shared buffers as they went in, for as long as the receiver may read them."""

import itertools
import pickle
import threading
import time
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from dataset_fakes import Words, processor

from datasets.handover import AHEAD, Destination, Receiver, Sender
from datasets.loader import MixtureLoader
from datasets.mixture import Mixture

PROCESSOR = processor()


def pictures(*counts):
    return [torch.randint(0, 256, (count, 3, 5, 4), dtype=torch.uint8) for count in counts]


def put(sender, images):
    room, parcel = sender.room((sum(map(len, images)), *images[0].shape[1:]))
    torch.cat(images, out=room)
    return parcel


def test_a_part_is_whole_until_one_more_than_may_be_ahead_is_asked_for():
    senders, receiver = [Sender(worker) for worker in range(2)], Receiver(Destination())
    sent = []  # (what went in, what came out), by worker
    for counts in [(3,), (1, 2), (9,), (0,), (0, 0), (40, 2), (0, 1), *[(5, 3)] * 6]:
        for sender in senders:
            images = pictures(*counts)
            parcel = pickle.loads(ForkingPickler.dumps(put(sender, images)))
            sent.append((torch.cat(images), receiver.take(parcel)))
        for expected, found in sent[-2 * (AHEAD + 1) :]:
            assert found.shape == expected.shape and torch.equal(found, expected)


def test_a_buffer_is_sent_when_it_is_new_and_not_again():
    sender = Sender(0)
    new = [put(sender, pictures(count)).buffer is not None for count in (8, 8, 8, 8, 9, 10, 11, 8, 8)]
    assert new == [True] * 3 + [False] * 3 + [True] + [False] * 2  # a quarter more than the first was has room


class Registering(Destination):
    """Knows the buffers that it may read."""

    def __init__(self):
        self.registered = []

    def register(self, buffer):
        self.registered.append(buffer.data_ptr())

    def unregister(self, buffer):
        self.registered.remove(buffer.data_ptr())


def test_buffers_are_registered_while_they_are_in_use():
    destination = Registering()
    sender, receiver = Sender(0), Receiver(destination)
    for count in (8, 8, 8, 8, 20, 8, 40):  # the fifth and the seventh want larger ones
        taken = receiver.take(put(sender, pictures(count)))
        assert taken.data_ptr() in destination.registered
    assert len(set(destination.registered)) == len(destination.registered) == AHEAD + 1
    receiver.close()
    assert destination.registered == []


class Late(Destination):
    """As a GPU, which copies beside the host and is slow about it; `send` waits for it."""

    def __init__(self):
        self.copies = []

    def join(self, images):
        joined = torch.zeros(sum(map(len, images)), *images[0].shape[1:], dtype=torch.uint8)
        self.copies.append(threading.Thread(target=self._copy, args=(joined, images)))
        self.copies[-1].start()
        return joined

    def _copy(self, joined, images):
        time.sleep(0.02)
        torch.cat(images, out=joined)

    def send(self, batch):
        while self.copies:
            self.copies.pop().join()
        return batch


def batches(workers, micro_batches, destination):
    mixture = Mixture([Words("p", 300, longest=3, images=2), Words("a", 300)], [1.0, 1.0])
    options = {"rows": 4, "length": 64, "micro_batches": micro_batches, "destination": destination}
    loader = MixtureLoader(mixture, PROCESSOR, workers=workers, **options)
    for step in itertools.islice(loader, 16):
        yield destination.send(step.batch)


@pytest.mark.parametrize("destination", [Destination, Late])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_batches_that_are_kept_are_not_written_over(workers, micro_batches, destination):
    """However late they are copied, if `send` has waited for it."""
    kept, alone = list(batches(workers, micro_batches, destination())), batches(0, micro_batches, Destination())
    for ours, theirs in zip(kept, alone, strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.tokens, theirs.tokens)
