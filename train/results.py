"""What a run reports of itself: text-only questions after each stage; at its end the charts' evaluation, report and table."""

from __future__ import annotations

from functools import partial

import vlm
from eval.chart_suite import evaluate_charts, evaluate_tables
from eval.report import write_report
from eval.table import format_run
from train.config import Config, StageConfig
from train.monitors import say
from train.run_dir import RunDirectory
from vlm.model import VLM
from vlm.processor import Processor


def evaluate_stage(config: Config, run: RunDirectory, model: VLM, processor: Processor, stage: StageConfig) -> None:
    """Questions about tables in words: what the decoder can reason out without seeing."""
    held = config.eval
    if not held.tables:
        return
    out = run.path / "eval" / f"tables-{stage.name}"
    summary = evaluate_tables(model, processor, out, seed=held.seed, count=held.tables, profile=held.profile)
    figure = next(value for key, value in summary.items() if key.startswith("relaxed_accuracy"))
    say(f"{stage.name}: {100 * figure['value']:.1f} % of {held.tables} questions about tables in words")


def evaluate_run(config: Config, run: RunDirectory, model: VLM, processor: Processor) -> None:
    """Charts with and without the image, chain of thought, hallucination, of the last weights and, with `optim.ema`, of their
    average; then `report.html` and the table of the last."""
    held = config.eval
    if held.charts:
        out = run.path / "eval" / "charts"
        count = min(held.reasoned, held.charts)
        suite = partial(evaluate_charts, seed=held.seed, count=held.charts, cot_count=count, profile=held.profile)
        suite(model, processor, out)
        if config.optim.ema is not None:
            average, its_processor = vlm.load(run.model_ema, next(model.parameters()).device, dtype=None)
            suite(average, its_processor, out.with_name("charts_ema"))
    report = write_report(run.path)
    print(format_run(run.path))
    print(f"\nreport: {report}\nmodel:  {run.model}")
