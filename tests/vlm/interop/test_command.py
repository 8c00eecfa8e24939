"""`python -m vlm.interop`: from one kind of directory to another, and one line with exit code 2 for what cannot be."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from vlm_fakes import build, byte_tokenizer, change

import vlm
from vlm.command import run
from vlm.interop import export, load_hf, read_text_files
from vlm.interop.__main__ import main
from vlm.interop.text import TextFiles

pytest.importorskip("gguf", reason="the extra gguf is not installed")
from gguf_fakes import DENSE, decoder, write_model

CONFIG = dataclasses.replace(DENSE, vocab_size=260)
TOKENS = torch.arange(20)[None] * 13 % 260
NAMES = sorted(byte_tokenizer().get_vocab(), key=byte_tokenizer().get_vocab().get)
VOCABULARY = {
    "tokenizer__ggml__model": "gpt2",
    "tokenizer__ggml__tokens": [*NAMES[:-1], "!!"],
    "tokenizer__ggml__token_type": [3] * 4 + [1] * 256,
    "tokenizer__ggml__merges": ["! !"],
    "tokenizer__ggml__bos_token_id": 1,
    "tokenizer__ggml__eos_token_id": 2,
    "tokenizer__ggml__add_bos_token": True,
    "tokenizer__chat_template": "{{ messages[0]['content'] }}",
}


def command(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def mistake(capsys, *arguments: object) -> str:
    """The one line on standard error of a command that ends with 2."""
    with pytest.raises(SystemExit) as stopped:
        run(lambda: command(*arguments))
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.startswith("error: ")
    return line


@pytest.fixture
def dense() -> vlm.TextDecoder:
    return decoder(CONFIG)


@pytest.fixture
def gguf_file(tmp_path, dense):
    return write_model(tmp_path / "m.gguf", dense, **VOCABULARY)


def test_gguf_to_model_to_experts_to_hugging_face(tmp_path, gguf_file, dense, capsys):
    command("import", gguf_file, tmp_path / "model")
    model, processor = vlm.load(tmp_path / "model")
    assert torch.equal(model(TOKENS), dense(TOKENS))
    assert processor.special == {"pad": "<eos>", "bos": "<bos>", "eos": "<eos>", "medium": None}
    assert processor.chat_template == "{{ messages[0]['content'] }}" and len(processor.tokenize("!!")) == 1

    command("upcycle", tmp_path / "model", tmp_path / "moe", "--experts", 3, "--top-k", 2)
    moe, _ = vlm.load(tmp_path / "moe")
    assert moe.config.num_experts == 3 and (moe(TOKENS) - dense(TOKENS)).abs().max() < 1e-5

    command("export", tmp_path / "moe", tmp_path / "hf", "--dtype", "float32")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "mixtral"
    back, text = load_hf(tmp_path / "hf"), read_text_files(tmp_path / "hf")
    assert torch.equal(back(TOKENS), moe(TOKENS))
    assert (text.bos, text.eos, text.add_bos, text.chat_template) == ("<bos>", "<eos>", True, processor.chat_template)

    command("import", tmp_path / "hf", tmp_path / "model")  # a model directory is replaced
    assert torch.equal(vlm.load(tmp_path / "model")[0](TOKENS), moe(TOKENS))
    assert "writing" in capsys.readouterr().out


def test_upcycle_from_any_source(tmp_path, gguf_file, dense):
    export(dense, tmp_path / "hf", text=TextFiles(byte_tokenizer(), bos="<bos>", eos="<eos>"))
    for source in (gguf_file, tmp_path / "hf"):
        command("upcycle", source, tmp_path / "moe", "--experts", 2, "--top-k", 1, "--every", 2, "--dtype", "bfloat16")
        moe, _ = vlm.load(tmp_path / "moe", dtype=None)
        assert moe.config.dense_layers == (0,) and moe.norm.weight.dtype == torch.bfloat16


def test_a_tokenizer_from_elsewhere(tmp_path, dense, capsys):
    source = write_model(tmp_path / "m.gguf", dense, **VOCABULARY | {"tokenizer__ggml__pre": "unheard-of"})
    assert "unheard-of" in mistake(capsys, "import", source, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    export(dense, tmp_path / "hf", text=TextFiles(byte_tokenizer(), eos="<eos>"))
    command("import", source, tmp_path / "model", "--tokenizer", tmp_path / "hf")
    assert torch.equal(vlm.load(tmp_path / "model")[0](TOKENS), dense(TOKENS))


def test_the_decoder_of_a_whole_model(tmp_path, processor):
    model = build(change(decoder={"num_experts": 1, "top_k": 1}))
    vlm.save(tmp_path / "model", model, processor)
    command("export", tmp_path / "model", tmp_path / "hf", "--decoder-only")
    assert torch.equal(load_hf(tmp_path / "hf")(TOKENS), model.decoder(TOKENS))
    command("upcycle", tmp_path / "model", tmp_path / "moe", "--experts", 2)
    assert vlm.load(tmp_path / "moe")[0].config.decoder.num_experts == 2


def test_nothing_but_a_model_is_replaced(tmp_path, gguf_file, dense, capsys):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    assert "not replaced" in mistake(capsys, "import", gguf_file, tmp_path / "letters")
    (tmp_path / "file").write_text("x")
    assert "not replaced" in mistake(capsys, "import", gguf_file, tmp_path / "file")
    export(dense, tmp_path / "hf", text=TextFiles(byte_tokenizer(), eos="<eos>"))
    assert "not replaced" in mistake(capsys, "import", gguf_file, tmp_path / "hf")
    command("import", gguf_file, tmp_path / "model")
    assert "not replaced" in mistake(capsys, "export", tmp_path / "model", tmp_path / "letters")
    assert "is the source" in mistake(capsys, "upcycle", tmp_path / "model", tmp_path / "x" / ".." / "model")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x" and vlm.load(tmp_path / "model")


def test_mistakes_are_one_line(tmp_path, gguf_file, capsys, monkeypatch):
    assert "is not there" in mistake(capsys, "import", tmp_path / "none", tmp_path / "x")
    command("import", gguf_file, tmp_path / "model")
    assert "already" in mistake(capsys, "import", tmp_path / "model", tmp_path / "x")
    assert "top_k 9" in mistake(capsys, "upcycle", gguf_file, tmp_path / "x", "--top-k", 9)
    assert "llama" in mistake(capsys, "export", tmp_path / "model", tmp_path / "x", "--family", "lama")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gguf", None)
        assert "pip install" in mistake(capsys, "import", gguf_file, tmp_path / "x")
    gguf_file.write_bytes(gguf_file.read_bytes()[:-1000])
    assert "cut short" in mistake(capsys, "import", gguf_file, tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert "empty" in mistake(capsys, "export", tmp_path / "empty", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["import", "--help"], ["export", "--help"], ["upcycle", "--help"]])
def test_help_shows_an_example(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "example:\n  python -m vlm.interop " in out


@pytest.mark.parametrize("arguments", [[], ["import"], ["improt", "a", "b"], ["import", "a", "b", "--dtype", "int8"]])
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
