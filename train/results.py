"""What a run reports of itself: text-only questions after each stage, the charts' evaluation and the report at its end."""

from __future__ import annotations

from train.config import Config, StageConfig
from train.run_dir import RunDirectory
from vlm.model import VLM
from vlm.processor import Processor


def evaluate_stage(config: Config, run: RunDirectory, model: VLM, processor: Processor, stage: StageConfig) -> None:
    """Questions about tables in words: what the decoder can reason out without seeing."""


def evaluate_run(config: Config, run: RunDirectory, model: VLM, processor: Processor) -> None:
    """Charts with and without the image, chain of thought, hallucination; then the report and the table."""
