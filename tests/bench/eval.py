"""`python -m tests.bench.eval [--device cuda]`: answers a second of an evaluation, and of a loop over items one by one.

Both write the same answers to the same held-out charts with the same model (the engine through its records on disk, the loop
through `generate` alone), and this is checked. The default model is an untrained small one, so that every answer runs to its
full length; --checkpoint takes a run. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import vlm
from encoders import EncoderConfig
from eval.arms import Arm, make
from eval.engine import Budget
from eval.evaluate import Running, collect
from eval.models.own import Own
from eval.tasks import Item, charts
from tests.bench.measure import commit, hardware, positive, versions
from vlm import command
from vlm.load import build_processor
from vlm.processor import SPECIAL_TOKENS


def untrained(dim: int, layers: int) -> tuple[vlm.VLM, vlm.Processor]:
    """`dim` wide and `layers` deep, with a byte-level tokenizer and an encoder of 64 patches."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    heads = max(1, dim // 64)
    config = vlm.ModelConfig(
        encoder=EncoderConfig(image_size=128, patch_size=16, width=dim, depth=layers // 2, num_heads=heads),
        resampler=vlm.ResamplerConfig(dim=dim, num_latents=16, depth=2, num_heads=heads, ffn_dim=2 * dim),
        fusion=vlm.FusionConfig(every=2, num_heads=heads, head_dim=64, ffn_dim=2 * dim, gate_init=0.5),
        decoder=vlm.DecoderConfig(
            vocab_size=tokenizer.get_vocab_size(), dim=dim, num_layers=layers, num_heads=heads, num_kv_heads=heads,
            num_experts=4, top_k=2, expert_dim=2 * dim,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model = vlm.VLM(config).eval()
    with torch.no_grad():  # projections into the residual stream start at 0: then all texts would be alike
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.02)
    return model, build_processor(config, tokenizer)


def loop(own: Own, arm: Arm, items: list[Item]) -> tuple[list[str], float]:
    """Texts of one `generate` an item, and answers a second."""
    device, texts, start = next(own.model.parameters()).device, [], time.perf_counter()
    for item in items:
        request = next(arm.ask(item))
        batch = own.processor([request.sample]).to(device)
        out = own.model.generate(batch, max_new_tokens=request.max_new_tokens, stop_ids=(own.processor.eos_id,))
        texts.append(own.processor.decode(out.tokens[0]))
    return texts, len(items) / (time.perf_counter() - start)


def engine(own: Own, arm: Arm, items: list[Item], budget: Budget) -> tuple[list[str], float]:
    """Texts of the records, and answers a second, everything included."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        records = collect(own, charts.TASK, items, Path(out), arm=arm, running=Running(budget))
        seconds = time.perf_counter() - start
    return [record["output"] for record in records], len(items) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=positive, default=2000, help="asked through the engine")
    parser.add_argument("--alone", type=positive, default=100, help="of them, asked one at a time")
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--cot", default="none")
    parser.add_argument("--dim", type=positive, default=256)
    parser.add_argument("--layers", type=positive, default=8)
    args = parser.parse_args()
    model, processor = vlm.load(args.checkpoint) if args.checkpoint else untrained(args.dim, args.layers)
    own, items = Own(model.to(args.device), processor), charts.items(0, args.items)
    arm = make(charts.TASK, args.cot)
    loop(own, arm, items[:3])
    engine(own, arm, items[: args.batch_size], Budget(args.batch_size))  # warm
    alone, slow = loop(own, arm, items[: args.alone])
    together, fast = engine(own, arm, items, Budget(args.batch_size))
    same = sum(a == b for a, b in zip(alone, together, strict=False)) / len(alone)
    result = {"bench": "eval", "arm": args.cot, "batch_size": args.batch_size, "items": len(items)}
    result |= {"engine_items_per_s": round(fast, 1), "loop_items_per_s": round(slow, 1), "times": round(fast / slow, 2)}
    result |= {
        "same_answers": same,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(),
        "commit": commit(),
    }
    print(json.dumps(result | {"hardware": hardware(args.device)}))


if __name__ == "__main__":
    command.run(main)
