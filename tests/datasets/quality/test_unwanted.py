import json
from itertools import chain

import numpy as np
import pytest
from quality_fakes import labelled, prose
from safetensors.numpy import save_file

from datasets.quality import classifier
from datasets.quality.__main__ import main
from datasets.quality.wordlist import WordList
from datasets.quality.words import word_hashes, words


def test_the_classifier_learns_is_saved_and_read_again(tmp_path, capsys):
    labelled(tmp_path / "rows.jsonl")
    main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "model.safetensors")])
    assert "trained on 108 texts, 36 of them unwanted" in capsys.readouterr().out
    model = classifier.load(tmp_path / "model.safetensors")
    fresh = labelled(tmp_path / "fresh.jsonl", seed=1)
    right = [(model.read(row["text"]) >= 0.5) == row["label"] for row in fresh]
    assert np.mean(right) > 0.9
    assert json.loads((tmp_path / "model.safetensors.json").read_text())["held_out"]["auc"] > 0.95
    main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "again.safetensors")])
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_chunked_text_reads_as_a_whole(tmp_path, monkeypatch):
    model = classifier.Classifier(np.random.default_rng(0).normal(size=1 << 10).astype(np.float32), 0.1)
    text = prose(1, 500)
    whole = model.read(text)
    monkeypatch.setattr("datasets.quality.words.CHUNK", 200)
    assert model.read(text) == pytest.approx(whole, abs=0.02)  # only the pairs across chunks differ


def test_labels_and_rows_that_do_not_fit_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "MIN_STEPS", 1)
    labelled(tmp_path / "rows.jsonl", 30)
    with (tmp_path / "rows.jsonl").open("a") as file:
        odd = [{"text": "x y"}, {"text": 7, "label": 1}, {"text": "a", "label": 2}, {"text": "a", "label": [1]}]
        again = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
        for row in chain(
            odd, [{"text": "...", "label": 1}, again, {"text": "b c", "label": True}, {"text": "d e", "label": "wanted"}]
        ):
            file.write(json.dumps(row) + "\n")
        file.write("no json\n[1]\n")
    main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "m")])
    counts = {r: s["count"] for r, s in json.loads((tmp_path / "m.json").read_text())["skipped"].items()}
    assert counts == {
        "line is no JSON": 1, "row is no object": 1, "row without text and label 0 or 1": 4, "text without words": 1,
        "text again": 1,
    }  # fmt: skip


def test_too_few_labels_is_a_users_mistake(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a b", "label": 1}\n' * 5 + '{"text": "c", "label": 0}\n')
    with pytest.raises(ValueError, match="1 unwanted and 1 wanted texts: at least 2 of each"):
        main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "m")])
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"weight": np.zeros(8, np.float32), "bias": np.zeros(1, np.float32)}, {}, "has the format None"),
        ({"weight": np.zeros(7, np.float32), "bias": np.zeros(1, np.float32)}, {"format": classifier.FORMAT}, "power of 2"),
        ({"weight": np.full(8, np.nan, np.float32), "bias": np.zeros(1, np.float32)}, {"format": classifier.FORMAT}, "finite"),
        (
            {"weight": np.zeros((8, 2), np.float32), "bias": np.zeros(1, np.float32)},
            {"format": classifier.FORMAT},
            "power of 2",
        ),
        ({"weight": np.zeros(8, np.float32)}, {"format": classifier.FORMAT}, "not a whole safetensors file"),
    ],
)
def test_files_that_are_no_classifier(tensors, metadata, message, tmp_path):
    save_file(tensors, tmp_path / "m", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        classifier.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="m is not a whole safetensors file"):
        classifier.load(tmp_path / "m")


def test_the_word_list_counts_words_and_phrases(tmp_path):
    (tmp_path / "list").write_text("# spam\nFoo\nbad idea  # a phrase\nfoo bad\n\n色情\n")
    listed = WordList(tmp_path / "list")
    count = lambda text: listed.count(word_hashes(words(text)))  # noqa: E731
    assert len(listed) == 4
    assert [count(t) for t in ("", "a good idea", "FOO!", "a bad, idea", "foo bad idea", "foolish", "这是色情")] == [
        0,
        0,
        1,
        2,
        3,
        0,
        2,
    ]


@pytest.mark.parametrize(
    ("text", "message"), [("# none\n", "holds no words"), ("a b c d e f g h i j k", "line 1: a phrase of 11")]
)
def test_bad_word_lists(text, message, tmp_path):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message):
        WordList(tmp_path / "list")


def test_the_shipped_list_leaves_technical_prose_alone():
    listed = WordList()
    assert len(listed) > 80
    assert (
        listed.count(word_hashes(words("Sex differences in breast cancer; the cock crowed; slot machines; adult education.")))
        == 0
    )


def test_a_folder_is_no_model(tmp_path):
    labelled(tmp_path / "rows.jsonl")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        main(["train", str(tmp_path / "rows.jsonl"), str(tmp_path / "model")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "rows.jsonl"]
