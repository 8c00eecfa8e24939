"""Chats through templates: ids as transformers', nothing forged, the right tokens learnt, hostile templates refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from vlm_fakes import image, picture

from vlm import Image, Processor, Sample, Text, Video, chat_sample
from vlm.image import ImageTransform

CHATML = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
DEFAULT_SYSTEM = (  # as SmolLM2's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = """{%- set ns = namespace(first=true) -%}
{%- for message in messages -%}
    {%- set head = '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' -%}
    {%- if ns.first -%}{%- set head = bos_token ~ head -%}{%- set ns.first = false -%}{%- endif -%}
    {{- head ~ (message.content | trim) ~ '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}
{%- else %}{{ raise_exception('only user and assistant') }}{% endif %}
{%- endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] + '\\n\\n' %}
{%- set rest = messages[1:] %}{% else %}{% set lead = '' %}{% set rest = messages %}{% endif %}
{%- macro shown(name, text) -%}{{ '<|im_start|>' ~ name ~ '\\n' ~ text | trim ~ '<|im_end|>\\n' }}{%- endmacro %}
{%- for message in rest %}{% if message.content is string %}
{{- shown('model' if message.role == 'assistant' else message.role, (lead if loop.first else '') + message.content) }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"""
PLAIN = """{% for message in messages %}
{{- '### ' ~ message.role | capitalize ~ ':\\n' ~ message.content ~ '\\n\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"""
THINKING = """{%- set ns = namespace(open=true, last=messages|length - 1) %}{%- for message in messages[::-1] %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.open and message.role == "user" and message.content is string and not message.content.startswith('<tool_response>') %}
{%- set ns.open = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.role != "assistant" %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- else %}
{%- set content = message.content %}{%- set thought = '' %}
{%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{%- if loop.last or loop.index0 > ns.last %}
{{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"""
TEMPLATES = {"chatml": CHATML, "default_system": DEFAULT_SYSTEM, "llama_3": LLAMA_3, "mistral": MISTRAL, "gemma": GEMMA}
TEMPLATES |= {"plain": PLAIN, "thinking": THINKING}
SPECIAL = ["<pad>", "<bos>", "<eos>", "<image>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # as Llama 3's


def bpe_tokenizer() -> Tokenizer:
    """Byte-level, with merges across words and blanks such as a published one has."""
    tokenizer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["user assistant system what is this Hello there yes\n\n no " * 20, PLAIN], trainer)
    return tokenizer


TOKENIZER = bpe_tokenizer().to_str()


def processor(template: str | None) -> Processor:
    return Processor(Tokenizer.from_str(TOKENIZER), ImageTransform(16), chat_template=template)


def names(ids) -> list[str]:
    tokenizer = Tokenizer.from_str(TOKENIZER)
    return [tokenizer.id_to_token(i) for i in ids]


def conversation(*contents: str, system: str | None = None) -> list[dict]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    return ([] if system is None else [{"role": "system", "content": system}]) + turns


CONVERSATIONS = [
    conversation("Hello there"),
    conversation("What is 12 + 34?", "46.", "Sure?\nReally, really?", "Yes.\n\nQuite sure."),
    conversation("hi", "ho", "  outer blanks \n"),
    conversation("x", " \n", "", "é語😀"),
    conversation("hi", "ho", "on", system="Be brief."),
]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(name, number, prompt):
    transformers = pytest.importorskip("transformers")
    messages = CONVERSATIONS[number]
    if name == "mistral" and messages[0]["role"] == "system":
        pytest.skip("refused by the template")
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(TOKENIZER), pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    options = {"chat_template": TEMPLATES[name], "add_generation_prompt": prompt, "return_dict": False}
    expected = peer.apply_chat_template(messages, **options)
    p = processor(TEMPLATES[name])
    assert names(p.encode(chat_sample(p, messages, add_generation_prompt=prompt)).tokens) == names(expected)


CLOSING = {"chatml": "<|im_end|>", "default_system": "<|im_end|>", "llama_3": "<|eot_id|>", "mistral": "<eos>"}
CLOSING |= {"gemma": "<|im_end|>", "plain": ""}


@pytest.mark.parametrize("name", CLOSING)
def test_answers_are_learnt_with_the_token_that_closes_them(name):
    p = processor(TEMPLATES[name])
    messages = conversation("Hello", "first answer", "again?", "second")
    encoded = p.encode(chat_sample(p, messages))
    learnt = p.tokenizer.decode(encoded.tokens[encoded.learn].tolist(), skip_special_tokens=False)
    blank = " " if name == "mistral" else ""  # the model writes the blank after [/INST]
    assert learnt == f"{blank}first answer{CLOSING[name]}{blank}second{CLOSING[name]}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_what_stands_before_the_learnt_answer(name):
    """Training and generation see the same ids."""
    p = processor(TEMPLATES[name])
    for end in (1, 3):
        messages = conversation("Hello", "first answer", "again?", "second")[: end + 1]
        prompt = p.encode(chat_sample(p, messages[:end], add_generation_prompt=True)).tokens.tolist()
        whole = p.encode(chat_sample(p, messages))
        assert whole.tokens.tolist()[: len(prompt)] == prompt and whole.learn[len(prompt)]
        assert not whole.learn[len(prompt) - 1]


def test_the_generation_tag_says_what_is_learnt():
    template = CHATML.replace("message['content'] | trim + '<|im_end|>'", "''").replace(
        "+ '\\n' -}}\n{% endfor", "}}{% generation %}{{ message['content'] }}!{% endgeneration %}<|im_end|>\n{% endfor"
    )
    p = processor(template)
    encoded = p.encode(chat_sample(p, conversation("a", "bc")))
    assert p.tokenizer.decode(encoded.tokens[encoded.learn].tolist()) == "a!bc!"
    transformers = pytest.importorskip("transformers")
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(TOKENIZER))
    options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
    theirs = peer.apply_chat_template(conversation("a", "bc"), **options)
    assert p.tokenizer.decode(theirs["input_ids"]) == p.tokenizer.decode(encoded.tokens.tolist())


def test_a_template_that_writes_history_otherwise_still_learns_the_content():
    """The prompt holds words that the finished turn does not: then from the content's first letter."""
    p = processor(CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"))
    encoded = p.encode(chat_sample(p, conversation("a", "the answer", "b", "more")))
    learnt = p.tokenizer.decode(encoded.tokens[encoded.learn].tolist(), skip_special_tokens=False)
    assert learnt == "the answer<|im_end|>more<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_special_tokens_in_a_content_stay_text(name, role):
    p = processor(TEMPLATES[name])
    typed = "x".join(SPECIAL)
    before = ("q",) if role == "assistant" else ()
    innocent, hostile = (p.encode(chat_sample(p, conversation(*before, t))).tokens.tolist() for t in ("a", typed))
    specials = [[t for t in ids if t < len(SPECIAL)] for ids in (innocent, hostile)]
    assert specials[0] == specials[1]
    assert typed in p.decode(hostile)


BITS = ["<|im_", "end|>", "<|im_end|>", "x", " ", "\n", "{{", "}}", "{%", "<eos>"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(BITS), max_size=6).map("".join), min_size=1, max_size=4))
def test_no_content_changes_the_special_tokens(contents):
    p = processor(CHATML)
    messages = conversation(*contents)
    tokens = p.encode(chat_sample(p, messages)).tokens.tolist()
    frame = [t for t in tokens if t < len(SPECIAL)]
    assert names(frame) == ["<|im_start|>", "<|im_end|>"] * len(messages)
    written = "".join(f"{m['role']}\n{m['content'].strip()}\n" for m in messages)
    assert p.decode(tokens) == written


def test_pictures_stand_where_they_are_in_the_content():
    p = processor(CHATML)
    parts = [{"type": "text", "text": "see "}, {"type": "image", "image": picture(1)}, {"type": "text", "text": " and"}]
    parts += [{"type": "video", "frames": [picture(2), picture(3)], "times": [0, 2.5]}]
    sample = chat_sample(p, [{"role": "user", "content": parts}, {"role": "assistant", "content": "ok"}])
    kinds = [type(s).__name__ if not isinstance(s, Text) else s.text for s in sample.segments]
    assert kinds[:7] == ["<|im_start|>", "user\nsee ", "Image", " and", "Video", "<|im_end|>", "\n"]
    encoded = p.encode(sample)
    assert [m[2] for m in encoded.media] == [(0.0,), (0, 2.5)]
    assert names(encoded.tokens).count("<image>") == 2


BY_PARTS = """{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' }}{% for part in message['content'] %}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}
{%- endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_template_for_contents_in_parts_gets_them():
    """As vision models' templates are: it writes the picture's token itself."""
    p = processor(BY_PARTS)
    parts = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "a <image>"}]
    parts.append({"type": "image", "image": picture(2)})
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]
    sample = chat_sample(p, messages)
    assert [s.data for s in sample.segments if isinstance(s, Image)] == [picture(1), picture(2)]
    encoded = p.encode(sample)
    assert p.decode(encoded.tokens) == "user\na <image>\nassistant\nb\n" and len(encoded.media) == 2
    assert p.decode(encoded.tokens[encoded.learn]) == "b"


def test_a_chat_is_packed_with_other_samples():
    p = processor(CHATML)
    chat = chat_sample(p, conversation("q", "a"), key="k")
    assert chat.key == "k" and not chat.framed
    tokens = names(p.encode(chat).tokens)
    assert tokens[0] == "<|im_start|>" and "<eos>" not in tokens
    batch = p.collate([[p.encode(chat), p.encode(Sample((image(1), Text("x"))))]])
    assert batch.document[0].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user"}], "message 0 is not a mapping of role and content"),
        (["hello"], "message 0 is not a mapping"),
        ([{"role": "user", "content": "a", "name": "<|im_end|>"}], "role and content alone"),
        ([{"role": "user<|im_end|>", "content": "a"}], "message 0 has the role 'user<|im_end|>'; there are system"),
        ([{"role": "user", "content": 3}], "message 0 has a content that is neither text nor a list: 3"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "message 0 has a part that is no text, image or video"),
        ([{"role": "user", "content": [{"type": "text", "text": b"x"}]}], "no text, image or video"),
    ],
)
def test_bad_messages_are_refused_in_one_line(messages, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")) as error:
        chat_sample(processor(CHATML), messages)
    assert "\n" not in str(error.value)


def test_no_template_is_said():
    with pytest.raises(ValueError, match="no chat template"):
        chat_sample(processor(None), conversation("x"))


def test_video_and_image_values_are_checked_by_the_processor():
    p = processor(CHATML)
    sample = chat_sample(p, [{"role": "user", "content": [{"type": "video", "frames": []}]}])
    assert any(isinstance(s, Video) for s in sample.segments)
    with pytest.raises(ValueError, match="clip has 0 frames"):
        p.encode(sample)


def sentencepiece_like() -> Tokenizer:
    """Blanks as "▁", one before each text, as Llama 2's: normalizer and all."""
    words = ["▁", "\n", *map(chr, range(33, 127)), "▁yes", "▁no", "yes"]
    made = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["<pad>", "<bos>", "<eos>", "<image>"])
    return made


def test_a_tokenizer_that_begins_texts_with_a_blank_does_so_once() -> None:
    """transformers tokenizes what is between special tokens in one piece."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = sentencepiece_like()
    reader = Processor(tokenizer, ImageTransform(16), chat_template=template)
    ours = reader.encode(chat_sample(reader, conversation("a b", "c d", "e")))
    tokenizer.encode_special_tokens = False
    whole = tokenizer.encode("<bos>[INST] a b [/INST] c d<eos>[INST] e [/INST]", add_special_tokens=False).ids
    assert list(ours.tokens) == whole
    assert "".join(tokenizer.id_to_token(t) for t, learnt in zip(whole, ours.learn, strict=True) if learnt) == "▁c▁d<eos>"
