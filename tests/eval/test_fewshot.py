"""Examples: which are chosen, what may not be among them, and that they fit."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from datasets.charts.held_out import held_out_items
from eval.fewshot import NO_ANSWER, Pool, RandomSupport, Rices, TextOnly, draw_pool
from eval.fewshot_context import check
from eval.fewshot_features import Features, of_encoder, of_model
from eval.fewshot_leaks import BROKEN, SAME_FILE, SAME_LOOK, SAME_QUESTION, Leaks
from eval.models.own import Own
from eval.prompting import Prompter
from eval.tasks import Item
from tests.eval.conftest import picture
from vlm.image import open_image


def noise(seed: int, side: int = 64) -> bytes:
    """Large random patches."""
    patches, buffer = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8), io.BytesIO()
    PIL.Image.fromarray(patches).resize((side, side), PIL.Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def chart(side: int | None = None) -> bytes:
    """A chart, at another size as a JPEG."""
    data, buffer = held_out_items(0, 1, "read")[0].image, io.BytesIO()
    if side is None:
        return data
    open_image(data).resize((side, side * 3 // 4)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def items(count: int, start: int = 0) -> list[Item]:
    return [Item(f"s{i}", f"How many of {i}?", (str(i),), (noise(i),)) for i in range(start, start + count)]


def colour(pictures):
    """An encoder: the mean colour, about grey."""
    return np.stack([np.asarray(open_image(p), np.float32).mean((0, 1)) - 128 for p in pictures])


def test_what_is_evaluated_is_left_out_and_counted():
    evaluated = [
        *items(3),
        Item("chart", "?", ("1",), (chart(),)),
        Item("t", "What is this word?", ("x",), context="Some text."),
    ]
    again = Item("a", "Else?", ("1",), (noise(0),))
    smaller = Item("b", "Else?", ("1",), (chart(300),))
    broken = Item("c", "Else?", ("1",), (b"no picture",))
    same = Item("d", " what is THIS word", ("1",), context="some text")
    other = Item("e", "What is this word?", ("1",), context="Other text.")
    another = Item("f", "How many of 0?", ("1",), (noise(77),))  # the same question about another picture
    leaks = Leaks(evaluated)
    reasons = [leaks.reason(example) for example in (again, smaller, broken, same, other, another)]
    assert reasons == [SAME_FILE, SAME_LOOK, BROKEN, SAME_QUESTION, None, None]
    pool = draw_pool([again, smaller, broken, same, other, another], evaluated)
    assert {item.id for item in pool.items} == {"e", "f"} and sum(pool.dropped.values()) == 4
    with pytest.raises(ValueError, match="no example that can be shown: 1 with a picture that is evaluated"):
        draw_pool([again], evaluated)


def test_a_broken_evaluated_picture_does_not_stop_the_check():
    leaks = Leaks([Item("q", "?", ("1",), (b"broken",)), *items(1)])
    assert leaks.reason(Item("a", "?", ("1",), (noise(0),))) == SAME_FILE


def test_random_examples_depend_on_seed_and_item_alone():
    pool = Pool(tuple(items(40)), {})
    chosen = {k: [e.id for e in RandomSupport(pool, k).examples(Item("q", "?", ("1",)))] for k in (0, 4, 8, 16, 32)}
    assert all(chosen[k] == chosen[32][:k] and len(set(chosen[k])) == k for k in chosen)
    assert [e.id for e in RandomSupport(pool, 4).examples(Item("p", "?", ("1",)))] != chosen[4]
    assert [e.id for e in RandomSupport(pool, 4, seed=1).examples(Item("q", "?", ("1",)))] != chosen[4]
    settings = [RandomSupport(Pool(tuple(items(n)), {}), 4).settings for n in (40, 41)]
    assert settings[0] == RandomSupport(pool, 4).settings != settings[1]
    for shots in (-1, 41, 1000):
        with pytest.raises(ValueError, match=f"--shots {shots}"):
            RandomSupport(pool, shots)


def test_a_pool_is_drawn_by_its_seed():
    drawn = [draw_pool(items(30), [], 10, seed).digest for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(draw_pool(items(30), [], None).items) == 30


def test_rices_takes_the_most_similar_the_most_similar_last():
    levels = [Item(f"l{level}", "?", ("1",), (picture(level),)) for level in range(0, 256, 15)]
    support = Rices(Pool(tuple(levels), {}), 3, Features(colour, "colour"))
    chosen = support.examples(Item("q", "?", ("1",), (picture(60, side=20),)))
    likeness = [
        float(support.features.pooled(e) @ support.features.pooled(Item("q", "?", ("1",), (picture(60),)))) for e in chosen
    ]
    assert chosen[-1].id == "l60" and likeness == sorted(likeness)
    assert support.settings["support_encoder"] == "colour" and support.settings["support"] == "rices"


def test_without_pictures_words_decide():
    texts = ("How tall is the tower?", "Who wrote the book?", "How tall is he?", "Name a fruit.")
    pool = Pool((*items(2), *(Item(f"t{i}", text, ("1",)) for i, text in enumerate(texts))), {})
    support = Rices(pool, 2, Features(colour, "colour"))
    chosen = support.examples(Item("q", "How tall is the new tower?", ("1",)))
    assert [e.id for e in chosen] == ["t2", "t0"]
    assert all(e.images for e in support.examples(Item("q", "?", ("1",), (noise(5),))))
    assert (
        len(Rices(pool, 6, Features(colour, "c")).examples(Item("q", "?", ("1",)))) == 6
    )  # the others where these do not suffice


def test_features_are_made_once_and_kept(tmp_path):
    calls = []

    def counted(pictures):
        calls.append(len(pictures))
        return colour(pictures)

    features = Features(counted, "one", tmp_path)
    features.prepare(
        [*items(40), *items(40), Item("broken", "?", ("1",), (b"x",)), Item("gone", "?", ("1",), (tmp_path / "no.png",))]
    )
    assert sum(calls) >= 40 and max(calls) <= 32
    before = features.pooled(items(1)[0])
    calls.clear()
    again = Features(counted, "one", tmp_path)
    assert np.allclose(again.pooled(items(1)[0]), before) and np.linalg.norm(before) == pytest.approx(1) and not calls
    Features(counted, "two", tmp_path).pooled(items(1)[0])
    assert calls == [1]  # of another encoder
    (tmp_path / "features-one.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match=r"features-one.safetensors are not a whole safetensors file"):
        Features(counted, "one", tmp_path)


def test_features_of_our_own_model_are_pooled_patches(model_and_processor):
    model, processor = model_and_processor
    features = of_model(model, processor)
    item = Item("q", "?", ("1",), (noise(3, 32),))
    patches = model.encoder(processor.image(item.images[0])[None])[:, model.encoder.num_prefix_tokens :].mean(1)[0]
    assert np.allclose(features.pooled(item), (patches / patches.norm()).detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="--support-encoder 'vit': want timm:NAME"):
        of_encoder("vit")


def test_flamingo_without_shots_shows_texts_alone():
    support = TextOnly(RandomSupport(Pool(tuple(items(9)), {}), 2))
    assert [e.images for e in support.examples(items(1, 50)[0])] == [(), ()]
    assert support.settings["shots"] == 0 and support.settings["text_only_examples"] == 2


def test_shots_that_do_not_fit_are_one_line(model_and_processor):
    model = Own(*model_and_processor)
    asked, pool = items(5, 100), Pool(tuple(items(20)), {})
    prompter = Prompter(support=RandomSupport(pool, 8))
    longest = max(model.length(prompter.ask(item)) for item in asked)
    check(model, longest + 4 + 12, prompter, asked, reason=False, room=4)
    with pytest.raises(ValueError, match=r"--shots 8: the prompt of item s10\d takes .* at most [1-7] fit for every item"):
        check(model, longest - 8, prompter, asked, reason=False, room=4)


def test_without_examples_a_long_prompt_is_a_warning(model_and_processor, capsys):
    model, asked = Own(*model_and_processor), items(5, 100)
    longest = max(model.length(Prompter().ask(item)) for item in asked)
    check(model, longest + 4, Prompter(), asked, reason=False, room=4)
    assert capsys.readouterr().err == ""
    check(model, longest + 4, Prompter(), asked, reason=False, room=5)
    assert f"takes {longest + 5:,} tokens" in capsys.readouterr().err


def test_a_broken_picture_among_the_evaluated_does_not_stop_rices(model_and_processor):
    asked = [*items(3, 100), Item("broken", "?", ("1",), (b"no picture",)), Item("gone", "?", ("1",), (Path("no.png"),))]
    support = Rices(Pool(tuple(items(6)), {}), 2, Features(colour, "colour"))
    support.features.prepare(asked)
    check(Own(*model_and_processor), 10_000, Prompter(support=support), asked, reason=False, room=4)
    with pytest.raises(ValueError):
        support.examples(asked[3])


def test_what_has_no_answer_is_not_shown():
    unknown = Item("u", "How many?", (), (noise(5),))
    pool = draw_pool([unknown, *items(2)], [])
    assert [item.id for item in pool.items] == ["s0", "s1"] and pool.dropped == {NO_ANSWER: 1}
    with pytest.raises(ValueError, match="no example that can be shown: 1 without an answer"):
        draw_pool([unknown], [])


@pytest.mark.parametrize(
    "change",
    [
        {"choices": {"A": "x"}},
        {"hint": "h"},
        {"context": "c"},
        {"instruction": "i"},
        {"rationale": "r"},
        {"references": ("2",)},
    ],
)
def test_the_pool_is_known_by_all_that_it_shows(change):
    example = items(1)[0]
    assert Pool((example,), {}).digest != Pool((dataclasses.replace(example, **change),), {}).digest
