"""Samples → ids, labels and media."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_fakes import CONFIG, DOCUMENTS, byte_tokenizer, image, picture

from vlm import Image, Processor, Sample, Text, Video
from vlm.batch import IGNORE
from vlm.image import ImageTransform
from vlm.load import build_processor
from vlm.prompt import question

PROCESSOR = build_processor(CONFIG, byte_tokenizer())
PAD, BOS, EOS, IMAGE = range(4)


def ids(text):
    return PROCESSOR.tokenize(text)


@pytest.mark.parametrize("data", ["chart.png", np.zeros((8, 8), np.uint8)], ids=["text", "array"])
def test_what_is_no_picture_is_refused_in_one_line(data):
    for media in (Image(data), Video((data,))):
        with pytest.raises(ValueError, match=r"^a picture('s pixels are uint8 \[H, W, 3\]| is encoded bytes, .*), not [^\n]+$"):
            PROCESSOR([Sample((media, Text("x")))])


def test_labels_are_the_next_learnt_token():
    batch = PROCESSOR([Sample((Text("ab", learn=False), Text("cd"))), Sample((Text("x"),))])
    a, b, c, d, x = ids("abcdx")
    assert batch.tokens.tolist() == [[BOS, a, b, c, d, EOS], [BOS, x, EOS, PAD, PAD, PAD]]
    assert batch.labels.tolist() == [[IGNORE, IGNORE, c, d, EOS, IGNORE], [x, EOS] + [IGNORE] * 4]
    assert batch.lengths.tolist() == [6, 3]


def test_packed_documents_do_not_learn_each_others_first_token():
    docs = [PROCESSOR.encode(Sample((Text(t),))) for t in ("a", "b")]
    batch = PROCESSOR.collate([docs], length=8)
    a, b = ids("ab")
    assert batch.tokens[0].tolist() == [BOS, a, EOS, BOS, b, EOS, PAD, PAD]
    assert batch.labels[0].tolist() == [a, EOS, IGNORE, b, EOS, IGNORE, IGNORE, IGNORE]
    assert batch.document[0].tolist() == [0, 0, 0, 1, 1, 1, -1, -1]
    assert batch.positions[0, :6].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ((Text("q", False), Text("a")), "BqaE"),
        ((Text("q", False), Text("a"), Text("r", False), Text("b")), "BqaErbE"),
        ((Text("a"), Text("b")), "BabE"),
        ((Text("a"), image(1), Text("b")), "BaIbE"),
        ((image(1), image(2), Text("b")), "BIIbE"),
        ((Text("q", False),), "Bq"),
        ((), "B"),
    ],
)
def test_eos_stands_only_where_a_learnt_stretch_ends(segments, expected):
    letters = {BOS: "B", EOS: "E", IMAGE: "I"}
    tokens = PROCESSOR.encode(Sample(segments)).tokens.tolist()
    assert "".join(letters.get(t) or PROCESSOR.decode([t]) for t in tokens) == expected


def test_media_have_one_placeholder_each_and_their_frames():
    sample = Sample((Text("a"), image(1), Video((picture(2), picture(3))), Text("b"), image(4)))
    batch = PROCESSOR([sample, DOCUMENTS[0], Sample((image(5),))])
    assert batch.tokens[0].tolist() == [BOS, *ids("a"), IMAGE, IMAGE, *ids("b"), IMAGE] + [PAD] * (batch.tokens.shape[1] - 6)
    assert batch.image_index[0, :6].tolist() == [-1, -1, 0, 1, 1, 2]
    assert (batch.image_index[1] == -1).all() and batch.image_index[2, :2].tolist() == [-1, 3]
    assert batch.media_document.tolist() == [[0, 0], [0, 0], [0, 0], [2, 0]]
    assert batch.media_of_frame.tolist() == [0, 1, 1, 2, 3] and batch.frame_time.tolist() == [0, 0, 1, 0, 0]
    for frame, seed in zip(batch.images, (1, 2, 3, 4, 5), strict=True):
        assert frame.equal(PROCESSOR.image(picture(seed)))


@pytest.mark.parametrize("copied", [lambda p: p, lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy])
def test_special_tokens_typed_by_a_user_stay_text(copied):
    processor = copied(PROCESSOR)
    text = "<image><eos> and <bos><pad>"
    tokens = processor.encode(Sample((Text(text, learn=False),))).tokens.tolist()
    assert min(tokens[1:]) > IMAGE and processor.decode(tokens) == text


@given(st.text(), st.text())
def test_a_prompt_is_a_prefix_of_its_training_sample(text, answer):
    prompt = PROCESSOR.encode(question([], text)).tokens.tolist()
    full = PROCESSOR.encode(question([], text, answer=answer))
    assert full.tokens.tolist()[: len(prompt)] == prompt and not full.learn[: len(prompt)].any()
    assert full.learn[len(prompt) :].all()
    assert PROCESSOR.decode(full.tokens[len(prompt) :]) == f" {answer}"


@given(st.lists(st.tuples(st.text(), st.booleans()), max_size=5))
def test_any_text_comes_back(parts):
    encoded = PROCESSOR.encode(Sample(tuple(Text(t, learn) for t, learn in parts)))
    assert PROCESSOR.decode(encoded.tokens) == "".join(t for t, _ in parts)
    assert len(encoded.tokens) == len(encoded.learn)


def test_a_tokenizer_file_that_cuts_or_pads_does_neither_here():
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    assert len(build_processor(CONFIG, tokenizer).tokenize("abcdefgh")) == 8


def test_without_bos_an_empty_document_is_empty():
    processor = Processor(byte_tokenizer(), ImageTransform(16), bos=None)
    batch = processor([Sample(()), Sample((Text("ab"),))])
    assert batch.lengths.tolist() == [0, 3] and (batch.labels[0] == IGNORE).all()
    assert processor([]).tokens.shape == (0, 0)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample((Text("half \ud800"),)), "not valid Unicode"),
        (Sample((Video(()),)), "clip has 0 frames"),
        (Sample((Video((picture(1),), (0.0, 1.0)),)), "clip has 1 frames"),
        (Sample((Video((picture(1),), (float("nan"),)),)), "nan"),
        (Sample((Video((b"",)),)), "image cannot be decoded"),
    ],
)
def test_bad_samples_are_refused_in_one_line(sample, message):
    with pytest.raises(ValueError, match=message) as error:
        PROCESSOR.encode(sample)
    assert "\n" not in str(error.value)


def test_special_tokens_of_a_template_are_tokens_and_a_chat_frames_itself():
    chat = Sample(
        (Text("<bos>", False, special=True), Text("a<eos>"), Text("<eos>", special=True), Text("b", False)), framed=False
    )
    encoded = PROCESSOR.encode(chat)
    assert encoded.tokens.tolist() == [BOS, *ids("a<eos>"), EOS, *ids("b")]
    assert encoded.learn.tolist() == [False] + [True] * 7 + [False]
    assert PROCESSOR.encode(Sample((Text("a"),), framed=False)).tokens.tolist() == ids("a")
    with pytest.raises(ValueError, match="no token '<nobody>'"):
        PROCESSOR.encode(Sample((Text("<nobody>", special=True),)))


def test_rows_too_long_and_missing_special_tokens_are_refused():
    with pytest.raises(ValueError, match="row of 4 tokens does not fit a length of 3"):
        PROCESSOR([Sample((Text("ab"),))], length=3)
    with pytest.raises(ValueError, match="'<stop>'"):
        Processor(byte_tokenizer(), ImageTransform(16), eos="<stop>")


def test_an_answer_before_the_next_picture_is_closed():
    """In a conversation about several pictures each answer ends; between two pictures of a page prose goes on."""
    chat = (image(5), Text("q", learn=False), Text("a"), image(5), Text("q", learn=False), Text("b"))
    assert list(PROCESSOR.encode(Sample(chat)).tokens).count(PROCESSOR.eos_id) == 2
    page = (Text("a"), image(5), Text("b"))
    assert list(PROCESSOR.encode(Sample(page)).tokens).count(PROCESSOR.eos_id) == 1


def test_a_conversation_of_many_turns_takes_time_in_proportion():
    """An end token belongs to each learnt text before a given one; a record of a megabyte must not take minutes."""
    turns = [Text("a", learn=i % 2 == 1) for i in range(20_001)] + [Text("b")]
    looked = 0

    class Counted(tuple):
        def __getitem__(self, index):
            nonlocal looked
            found = super().__getitem__(index)
            looked += len(found) if isinstance(index, slice) else 1
            return found

    encoded = PROCESSOR.encode_text(Sample(Counted(turns)))
    assert (encoded.tokens == PROCESSOR.eos_id).sum() == 10_001
    assert looked < 5 * len(turns)
