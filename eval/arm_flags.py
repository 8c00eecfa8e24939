"""The flags of `eval.run` that say how a question is put: arms, prompt conventions, examples. From these to arms.

Several arms, or several seeds of the support, are several evaluations of the same items: `eval.several` runs and compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from eval import fewshot, fewshot_context, fewshot_features
from eval.arms import ARMS, Arm, make
from eval.arms.make import prompter
from eval.arms.settings import RATIONALE_TOKENS
from eval.cli import nearest
from eval.conventions import CONVENTIONS, get
from eval.fewshot_features import Features
from eval.models import Model
from eval.models.own import Own
from eval.prompting import Support
from eval.tasks import Item, Task

MAX_SEEDS = 100


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how a question is put")
    add = group.add_argument
    add(
        "--cot",
        type=_arms,
        metavar="ARM[,ARM…]",
        help=f"of: {', '.join(ARMS)} (default: none); several are compared with the first",
    )
    add("--samples", type=int, metavar="K", help="rationales of self_consistency (default: 10)")
    add(
        "--rationale-tokens",
        type=int,
        default=RATIONALE_TOKENS,
        metavar="N",
        help="room for a rationale (default: %(default)s)",
    )
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the most likely tokens of this share (default: all)")
    written = f"how prompts are written: {', '.join(CONVENTIONS)} (default: own; of other models chat)"
    add("--convention", metavar="NAME", help=written)
    add("--shots", type=int, default=0, metavar="K", help="examples before each question, with their pictures (default: 0)")
    add(
        "--support",
        choices=fewshot.KINDS,
        default="random",
        help="which examples: random (default), or rices, the most similar",
    )
    add("--support-split", metavar="S", help="where examples come from (default: train)")
    add(
        "--support-pool",
        type=int,
        default=fewshot.POOL,
        metavar="N",
        help="examples to choose from, 0 for all (default: %(default)s)",
    )
    add("--support-seed", type=int, default=0, metavar="S", help="another seed, another pool and other examples")
    add(
        "--support-seeds", type=int, default=1, metavar="N", help="so many seeds one after the other; mean and spread are given"
    )
    add(
        "--support-encoder",
        metavar="ENCODER",
        help="for rices: timm:NAME[:TAG] or open_clip:NAME[:TAG] (default: the model's own)",
    )
    add("--beyond-context", action="store_true", help="prompts may be longer than what the model was trained on")


def is_plain(args: argparse.Namespace) -> bool:
    """Is nothing chosen here but perhaps one arm?"""
    several = args.cot is not None and len(args.cot) > 1
    return not (several or args.shots or args.samples or args.convention != "own" or args.support_seeds > 1)


def name_parts(args: argparse.Namespace) -> list[str]:
    """What of the choices belongs into the name of a directory."""
    parts = ["-".join(args.cot)] if args.cot and args.cot != ("none",) else []
    parts += [args.convention] if args.convention != "own" else []
    parts += [f"{args.shots}shots-{args.support}"] if args.shots else []
    parts += [f"of-{args.support_split}"] if args.support_split and args.shots else []
    parts += [f"support{args.support_seed}"] if args.support_seed else []
    parts += [f"{args.support_seeds}seeds"] if args.support_seeds > 1 else []
    return parts + ([f"k{args.samples}"] if args.samples else [])


def chosen_arms(
    args: argparse.Namespace,
    task: Task,
    items: Sequence[Item],
    model: Model,
    load: Callable[[], Sequence[Item]],
    features: Path,
) -> dict[str, dict[int, Arm]]:
    """`--cot` arm → support seed → arm. `load` gives the support split's items, `features` is where a cache of them may be.

    Raises `ValueError` for what is not there, does not go together, or does not fit the model's context.
    """
    supports = _supports(args, items, model, load, features)
    arms: dict[str, dict[int, Arm]] = {}
    for cot in args.cot or ("none",):
        own = {"samples": args.samples} if cot == "self_consistency" else {}
        arms[cot] = {
            seed: make(
                task, cot, convention=args.convention, support=support, blank=args.blank, max_new_tokens=args.max_new_tokens,
                rationale_tokens=args.rationale_tokens, temperature=args.temperature, top_p=args.top_p, seed=args.seed, **own,
            )
            for seed, support in supports.items()
        }  # fmt: skip
        _check_context(args, task, cot, supports, items, model)
    if args.samples is not None and "self_consistency" not in arms:
        raise ValueError(f"--samples {args.samples} is for --cot self_consistency, not {','.join(arms)}")
    return arms


def _supports(
    args: argparse.Namespace, items: Sequence[Item], model: Model, load: Callable[[], Sequence[Item]], features: Path
) -> dict[int, Support | None]:
    if not 1 <= args.support_seeds <= MAX_SEEDS:
        raise ValueError(f"--support-seeds {args.support_seeds}: want 1 to {MAX_SEEDS}")
    seeds = range(args.support_seed, args.support_seed + args.support_seeds)
    text_only = get(args.convention).text_only_examples
    shots = args.shots or text_only
    if shots == 0:
        if args.support_seeds > 1:
            raise ValueError(f"--support-seeds {args.support_seeds} needs --shots: without examples there is nothing to draw")
        return {args.support_seed: None}
    examples, encoder = load(), None
    if args.support == "rices":
        _check_pool(args, len(examples))
        encoder = _encoder(args, model, features)
        encoder.prepare(items)
    found: dict[int, Support | None] = {}
    for seed in seeds:
        pool = fewshot.draw_pool(examples, items, args.support_pool or None, seed)
        _say(seed, pool)
        support = fewshot.Rices(pool, shots, encoder, seed) if encoder else fewshot.RandomSupport(pool, shots, seed)
        found[seed] = support if args.shots else fewshot.TextOnly(support)
    return found


def _check_pool(args: argparse.Namespace, count: int) -> None:
    """The most similar of all examples are the same whatever the seed."""
    if args.support_seeds > 1 and (not args.support_pool or args.support_pool >= count):
        raise ValueError(
            f"--support-seeds {args.support_seeds} --support rices: of all {count} examples every seed shows the same; "
            f"--support-pool takes a part of them, such as {max(1, count // 2)}"
        )


def _say(seed: int, pool: fewshot.Pool) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in pool.dropped.items())
    reasoned = sum(bool(item.rationale) for item in pool.items)
    left_out = f"; left out: {dropped}" if dropped else ""
    print(f"support, seed {seed}: {len(pool.items)} examples, {reasoned} with a rationale{left_out}", flush=True)


def _encoder(args: argparse.Namespace, model: Model, folder: Path) -> Features:
    if args.support_encoder:
        return fewshot_features.of_encoder(args.support_encoder, args.device, folder)
    if isinstance(model, Own) and hasattr(model.model, "encoder"):
        return fewshot_features.of_model(model.model, model.processor, folder)
    raise ValueError(
        "--support rices: this model has no encoder of ours: give --support-encoder, such as open_clip:ViT-B-32:openai"
    )


def _check_context(
    args: argparse.Namespace, task: Task, cot: str, supports: dict[int, Support | None], items: Sequence[Item], model: Model
) -> None:
    context = model.context_length() if not args.beyond_context else None
    if context is None:
        return
    room = (args.max_new_tokens or task.max_new_tokens) + (args.rationale_tokens if cot != "none" else 0)
    for support in supports.values():
        asks = prompter(task, args.convention, support)
        fewshot_context.check(model, context, asks, items, reason=cot not in ("none", "least_to_most"), room=room)


def _arms(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in ARMS:
            raise argparse.ArgumentTypeError(str(nearest("arm", name, ARMS)))
    return names
