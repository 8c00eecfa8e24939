"""Chat templates: what published ones use works; those that would harm or are broken are one line."""

from __future__ import annotations

import time

import pytest
from vlm_fakes import CONFIG, byte_tokenizer

from vlm import chat_sample
from vlm.chat_template import MAX_SOURCE, render
from vlm.load import build_processor


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "line 1"),
        ("{{ raise_exception('only\n roles') }}", "failed: only roles"),
        ("{{ messages[7]['content'] }}", "failed"),
        ("{{ ''.__class__.__mro__ }}", "failed"),
        ("{{ messages.append(1) }}", "failed"),
        ("nothing", "writes message 0 0 times"),
        ("{{ messages[0].content * 2 }}", "writes message 0 2 times"),
        ("{{ messages[0].content[:9] }}", "writes message 0 0 times"),
        ("x" * (MAX_SOURCE + 1), "262,145 characters"),
        ("{% include 'x' %}", "failed"),
        ("{{ 2 ** 99999999 }}", "not allowed"),
        ("{{ 'x' * 99999999999 }}", "more than 524,288"),
        ("{{ [0] * 9999999999 }}", "more than 524,288"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "loops, calls"),
        ("{% for i in range(1000) %}{{ 'x' * 9999 }}{% endfor %}", "more than 524,288"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "failed"),
        ("{% macro f(n) %}{% if n %}{% set a = f(n-1) ~ f(n-1) %}{% endif %}{% endmacro %}{{ f(60) }}", "loops, calls"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "more than 524,288"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}", "more than 524,288"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x.replace('x', n.x) %}{% endfor %}", "524,288"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x|replace('x', n.x) %}{% endfor %}", "524,288"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = [n.x, n.x]|join %}{% endfor %}", "524,288"),
        ("{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x.join(n.x) %}{% endfor %}", "524,288"),
        ("{{ 'x'.center(9999999999) }}", "unsafe"),
        ("{{ 'x' | center(9999999999) }}", "center"),
        ("{{ '{:9999999999}'.format(1) }}", "unsafe"),
        ("{{ '%9999999999d' % 1 }}", "not allowed"),
        ("{{ '%9999999999d' | format(1) }}", "format"),
        ("{{ (1).to_bytes(9999999999, 'big') }}", "unsafe"),
        ("{{ [1] | batch(999999999, 'x') | list }}", "batch"),
        ("{{ lipsum(999999) }}", "failed"),
        ("{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}", "recursive"),
        ("{% for i in range(40000) %}{% set x = range(99999) | map('string') | list %}{% endfor %}", "loops, calls"),
        ("{{ {'a': 1} | tojson(indent=9999999999) }}", "indent"),
        ("{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}", "524,288"),
    ],
)
def test_a_hostile_or_broken_template_is_one_line(template, message):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as error:
        processor = build_processor(CONFIG, byte_tokenizer())
        processor.chat_template = template
        chat_sample(processor, [{"role": "user", "content": "hello"}])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 and time.perf_counter() - started < 5


def test_what_templates_use_is_there():
    source = (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
        "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ {'a': '<b>', 'c': 1} | tojson }} {{ ['a', 'b'] | join('-') }} {{ 'aXa'.replace('X', '.') }}"
        " {{ 'a,b'.split(',')[1] }}"
        " {{ strftime_now('%Y') | length }} {{ ', '.join(['x', 'y']) }} {{ 7 % 4 }} {{ 2 * 3 }} {{ 1.5 * 2 }} {{ [1] + [2] }}"
        " {{ 'x' ~ 1 ~ none }} {{ tools is defined }}{% for x in 'ab' %}{{ loop.last }}{{ loop.length }}{% endfor %}"
    )
    expected = '013{"a": "<b>", "c": 1} a-b a.a b 4 x, y 3 6 3.0 [1, 2] x1None FalseFalse2True2'
    assert render(source) == expected
