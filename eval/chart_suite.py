"""What a trained model is asked about held-out charts, as a whole: with the picture and blanked, rationale first, and how
well its own doubts find what is wrong in its rationales. `train.fit` ends with it; `eval.run --task charts` repeats it.

    OUT/summary.json  records.jsonl     direct answers, with the picture
    OUT/blank/        records.jsonl     the same with every picture blanked
    OUT/reason/       records.jsonl     rationale first, on the first `cot_count` items; tokens.jsonl: doubts and gold labels
    OUT/gallery/      gallery.json      some of these, unselected, with pictures and attention maps, for the report
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.charts.held_out import held_out_items
from datasets.charts.profile import Profile, make_profile
from datasets.charts.steps import judged_spans
from eval import error_analysis, stats
from eval.arms import make
from eval.evaluate import Running, collect, evaluate
from eval.faithfulness import step_correctness
from eval.hallucination import DETECTORS, POSITION, TokenSignals, judge_detectors, label_tokens, read_signals
from eval.models.own import Own, device_of, inference
from eval.prompting import Prompter
from eval.store import write_atomically, write_json
from eval.summarize import accuracy, paired, split_by
from eval.tasks import Item
from eval.tasks.charts import COUNT, SEED, TABLES, TASK, items, table_items
from vlm.look import attention_maps
from vlm.model import VLM
from vlm.processor import Processor

PROMPTS = Prompter()
GALLERY = 24
DIFFERENCE = "paired difference of relaxed accuracy"
AFRESH = Running(replace=True)  # records of another checkpoint are replaced


def evaluate_charts(
    model: VLM,
    processor: Processor,
    out: Path,
    *,
    seed: int = SEED,
    count: int = COUNT,
    cot_count: int = 500,
    profile: str | Profile | Mapping = "sight",
    running: Running = AFRESH,
) -> dict | None:
    """The whole suite; writes under `out` and returns the summary, of several processes the first one alone.

    Raises `ValueError` when records are missing in the end, since another process had ended.
    """
    out, charts = Path(out), items(seed, count, profile)
    ask = partial(collect, Own(model, processor), TASK, running=running)
    direct = ask(charts, out, arm=make(TASK))
    blank = ask(charts, out / "blank", arm=make(TASK, blank=True))
    reasoned = ask(charts[:cot_count], out / "reason", arm=make(TASK, "single"))
    if running.ranks.rank:
        return None
    if missing := 2 * len(charts) + len(charts[:cot_count]) - len(direct) - len(blank) - len(reasoned):
        raise ValueError(f"{out}: {missing} answers are missing; the same command again goes on")
    signals, labels = _signals(model, processor, charts[: len(reasoned)], reasoned)
    hallucination = judge_detectors(signals, labels, [r["image"] for r in reasoned])
    summary = {"task": TASK.name, "profile": make_profile(profile).name, "seed": seed}
    summary |= _accuracies(direct, blank)
    wrong = error_analysis.analyse(reasoned, held_out_items(seed, len(reasoned), profile))
    chain = _chain_of_thought(direct[: len(reasoned)], reasoned, charts)
    summary["chain_of_thought"] = chain | {"errors": error_analysis.error_shares(wrong)}
    summary["hallucination"] = hallucination
    _write_tokens(out / "reason" / "tokens.jsonl", reasoned, signals, labels)
    _write_gallery(model, processor, out / "gallery", charts, (direct, blank, reasoned), signals, labels, hallucination)
    write_json(out / "summary.json", summary)
    return summary


def evaluate_tables(
    model: VLM,
    processor: Processor,
    out: Path,
    *,
    seed: int = SEED,
    count: int = 500,
    profile: str | Profile | Mapping = "sight",
    running: Running = AFRESH,
) -> dict | None:
    """The same questions, the table given in words and no picture: `relaxed_accuracy`, `by_kind`, `by_type`."""
    charts = table_items(seed, count, profile)
    return evaluate(Own(model, processor), TABLES, charts, out, arm=make(TABLES), running=running)


def _accuracies(direct: Sequence[dict], blank: Sequence[dict]) -> dict:
    figures = {"accuracy": accuracy(TASK, direct), "accuracy_blank": accuracy(TASK, blank)}
    figures["difference"] = paired(direct, blank, DIFFERENCE)
    for tag in TASK.by:
        for name, records in ((f"by_{tag}", direct), (f"by_{tag}_blank", blank)):
            figures[name] = {value: accuracy(TASK, rows) for value, rows in split_by(records, tag).items()}
    return figures


def _chain_of_thought(direct: Sequence[dict], reasoned: Sequence[dict], charts: Sequence[Item]) -> dict:
    """Both arms on the same items, same parser and metric."""
    images = [record["image"] for record in reasoned]
    figures = {
        "direct": accuracy(TASK, direct),
        "single": accuracy(TASK, reasoned),
        "difference": paired(reasoned, direct, DIFFERENCE),
    }
    for name, records in (("unparsed_direct", direct), ("unparsed_single", reasoned)):
        failed = [float(record["prediction"] is None) for record in records]
        figures[name] = stats.share(failed, images, variant="share of outputs without an answer")
    tables = [item.table for item in charts[: len(reasoned)]]
    return figures | step_correctness([record["rationale"] for record in reasoned], tables, images)


def _signals(
    model: VLM, processor: Processor, charts: Sequence[Item], reasoned: Sequence[dict]
) -> tuple[list[TokenSignals], list[list[bool | None]]]:
    """Signals of each token the model wrote, and gold labels of those inside a checkable part of its rationale."""
    prompts = [PROMPTS.ask(item, reason=True) for item in charts]
    signals = read_signals(model, processor, prompts, [record["tokens"] for record in reasoned])
    labels = []
    for item, record, read in zip(charts, reasoned, signals, strict=True):
        start = read.text.find(record["rationale"])
        judged = [(a + start, b + start, ok) for a, b, ok in judged_spans(record["rationale"], item.table)]
        labels.append(label_tokens(read.spans, read.text, judged))
    return signals, labels


def _pieces(signals: TokenSignals) -> list[str]:
    return [signals.text[a:b] for a, b in signals.spans]


def _write_tokens(path: Path, reasoned: Sequence[dict], signals: Sequence[TokenSignals], labels: Sequence[list]) -> None:
    """One row a rationale: its tokens, each detector's doubt, and whether the token is wrong (null: not judged)."""
    detectors = (*DETECTORS.values(), POSITION)
    rows = []
    for record, read, wrong in zip(reasoned, signals, labels, strict=True):
        doubts = {detector.name: [round(float(x), 4) for x in detector(read)] for detector in detectors}
        rows.append({"id": record["id"], "tokens": _pieces(read), "wrong": wrong, "doubt": doubts})
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_gallery(
    model: VLM,
    processor: Processor,
    folder: Path,
    charts: Sequence[Item],
    arms: tuple[Sequence[dict], Sequence[dict], Sequence[dict]],
    signals: Sequence[TokenSignals],
    labels: Sequence[list],
    hallucination: Mapping,
) -> None:
    direct, blank, reasoned = arms
    step = max(1, len(reasoned) // GALLERY)
    picked = [i * step + i % step for i in range(min(GALLERY, len(reasoned)))]  # shifted, as chart types take turns by five
    if not picked:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with inference(model):
        prompts = processor([PROMPTS.ask(charts[i]) for i in picked])
        maps = attention_maps(model, prompts.to(device_of(model))).float().cpu()
    detector, rows = DETECTORS.get(hallucination["detector"]), []
    for i, looked in zip(picked, maps, strict=True):
        doubt = [None] * len(labels[i]) if detector is None else [round(float(x), 3) for x in detector(signals[i])]
        tokens = [list(entry) for entry in zip(_pieces(signals[i]), doubt, labels[i], strict=True)]
        (folder / f"{i}.png").write_bytes(charts[i].pictures()[0])
        row: dict[str, Any] = {
            "image": f"{i}.png",
            "question": charts[i].question,
            "gold": charts[i].references[0],
            **charts[i].tags,
        }
        row |= {"answer": direct[i]["prediction"], "score": direct[i]["score"], "blank": blank[i]["prediction"]}
        row |= {"reasoned": reasoned[i]["prediction"], "reasoned_score": reasoned[i]["score"], "tokens": tokens}
        rows.append(row | {"map": [[round(float(x), 5) for x in line] for line in looked]})
    write_json(folder / "gallery.json", rows)
