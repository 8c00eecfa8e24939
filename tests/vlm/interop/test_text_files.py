"""Tokenizer, chat template and special tokens of published directories, in all of the places that they stand in."""

from __future__ import annotations

import json

import pytest
from tokenizers.processors import TemplateProcessing
from vlm_fakes import byte_tokenizer

from vlm.interop import TextFiles, read_text_files
from vlm.interop.text import write_text_files

TEMPLATE = "{% for m in messages %}<bos>{{ m['content'] }}<eos>{% endfor %}"


@pytest.fixture
def directory(tmp_path):
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def put(directory, name, value):
    (directory / name).write_text(value if isinstance(value, str) else json.dumps(value))


def test_a_tokenizer_alone(directory):
    text = read_text_files(directory)
    assert text.tokenizer.encode("ab").ids == byte_tokenizer().encode("ab").ids
    assert (text.chat_template, text.bos, text.eos, text.pad, text.unk, text.add_bos) == (None, None, None, None, None, False)
    assert text.id("bos") is None


def test_roles_as_strings_or_objects_from_either_file(directory):
    put(
        directory,
        "tokenizer_config.json",
        {"bos_token": "<bos>", "eos_token": {"content": "<eos>", "lstrip": False}, "pad_token": None},
    )
    put(
        directory,
        "special_tokens_map.json",
        {"bos_token": "<image>", "pad_token": {"content": "<pad>"}, "unk_token": "<nowhere>"},
    )
    text = read_text_files(directory)
    assert (text.bos, text.eos, text.pad, text.unk) == ("<bos>", "<eos>", "<pad>", None)
    assert [text.id(role) for role in ("pad", "bos", "eos")] == [0, 1, 2]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"chat_template": TEMPLATE}},
        {
            "tokenizer_config.json": {
                "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
            }
        },
        {"tokenizer_config.json": {"chat_template": "older"}, "chat_template.jinja": TEMPLATE},
        {"tokenizer_config.json": {"chat_template": "older"}, "chat_template.json": {"chat_template": TEMPLATE}},
        {"chat_template.json": {"chat_template": "older"}, "chat_template.jinja": TEMPLATE},
    ],
)
def test_where_a_template_may_stand(directory, files):
    for name, value in files.items():
        put(directory, name, value)
    assert read_text_files(directory).chat_template == TEMPLATE


@pytest.mark.parametrize(("said", "adds"), [(None, True), (True, True), (False, False)])
def test_whether_a_text_begins_with_bos(directory, said, adds):
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    put(directory, "tokenizer_config.json", {"bos_token": "<bos>"} | ({} if said is None else {"add_bos_token": said}))
    assert read_text_files(directory).add_bos is adds


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", "[" * 100_000, "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds no JSON object"),
        ("tokenizer_config.json", {"bos_token": 3}, "tokenizer_config.json: bos_token 3 is not a token"),
        ("special_tokens_map.json", {"eos_token": ["<eos>"]}, "special_tokens_map.json: eos_token"),
        ("tokenizer_config.json", {"chat_template": 5}, "tokenizer_config.json: chat_template is not a string"),
        ("chat_template.json", {"chat_template": {"a": 1}}, "chat_template.json: chat_template is not a string"),
    ],
)
def test_a_damaged_file(directory, name, value, said):
    put(directory, name, value)
    with pytest.raises(ValueError, match=said) as error:
        read_text_files(directory)
    assert "\n" not in str(error.value)


def test_slow_tokenizers_alone_are_refused(tmp_path):
    put(tmp_path, "tokenizer.model", "x")
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist"):
        read_text_files(tmp_path)


@pytest.mark.parametrize("add_bos", [False, True])
def test_what_we_write_is_read_again_and_by_transformers(add_bos, tmp_path):
    transformers = pytest.importorskip("transformers")
    written = TextFiles(byte_tokenizer(), TEMPLATE, bos="<bos>", eos="<eos>", pad="<pad>", add_bos=add_bos)
    write_text_files(tmp_path, written)
    read = read_text_files(tmp_path)
    assert (read.chat_template, read.bos, read.eos, read.pad, read.unk) == (TEMPLATE, "<bos>", "<eos>", "<pad>", None)
    put(tmp_path, "config.json", {"model_type": "llama"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = written.tokenizer.encode("Grüß Gott", add_special_tokens=False).ids
    assert theirs.encode("Grüß Gott", add_special_tokens=False) == plain
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<bos>", "<eos>", "<pad>")
    chat = theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<bos>hi<eos>"
    assert theirs.encode("Grüß Gott") == [1] * add_bos + plain
    assert read.add_bos is add_bos
    assert read.tokenizer.encode("Grüß Gott").ids == [1] * add_bos + plain
    assert written.tokenizer.to_str() == byte_tokenizer().to_str()
