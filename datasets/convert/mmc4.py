"""Multimodal C4 (Zhu et al., 2023): pages as `text_list` (sentences) and `image_info`, with CLIP similarities of the two.

SRC is a folder of the official .jsonl, .jsonl.gz or .jsonl.zip files, or one of them. Each picture stands before the sentence
that it is assigned to: the linear assignment of largest similarity over `similarity_matrix` [images, sentences], computed over
all pictures of the page, so that one which is missing on disk moves no other. Where there are more pictures than sentences, the
rest go to the sentence most similar to each, as in the official `compute_assignments.py`. A page without a usable matrix falls
back on the published `matched_text_index` and `matched_sim`.

Pictures are files called `image_name` below `--images` (default: SRC, or SRC's folder): in `{file}_images/`, where the official
downloader puts them, in `images/`, or right there. One that is missing or less similar than `--min-similarity` is left out and
counted; its page stays, unless `--min-images` asks for more.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from datasets.convert.common import Skips, root_of, row_files
from datasets.convert.pictures import read_images
from datasets.convert.rows import read_rows
from vlm.sample import Image, Sample, Segment, Text

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zip")
SOURCE = "mmc4"  # one set of shards: the release has 23,085 files


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: SRC)")
    about = "leave out pictures less similar than this (default: 0; OpenFlamingo: 0.24)"
    parser.add_argument("--min-similarity", type=float, default=0.0, metavar="S", help=about)
    parser.add_argument("--min-images", type=int, default=0, metavar="N", help="leave out pages with fewer (default: 0)")


def convert(
    src: Path, skips: Skips, *, images: str | None = None, min_similarity: float = 0.0, min_images: int = 0
) -> Iterator[Sample]:
    """A sample a page, all its text learnt. Raises `ValueError` when no row has the lists."""
    if not math.isfinite(min_similarity):
        raise ValueError(f"--min-similarity is {min_similarity}: want a finite number")
    root, seen = root_of(src, images), False
    for path in row_files(src, ENDINGS, skips):
        folders = (f"{path.name.split('.')[0]}_images", "images", "")
        for where, row in read_rows(path, skips):
            seen = seen or {"text_list", "image_info"} <= row.keys()
            try:
                sample = _page(row, where, root, folders, min_similarity, min_images, skips)
            except ValueError as error:
                skips.add(str(error), where)
            else:
                yield sample
    if not seen:
        raise ValueError(f"{src} is not in MMC4's layout: no {', '.join(ENDINGS)} whose rows have text_list and image_info")


def _page(row: dict, where: str, root: Path, folders: tuple[str, ...], least: float, fewest: int, skips: Skips) -> Sample:
    """Raises `ValueError` with a short reason for a page that cannot be used."""
    sentences, info = row.get("text_list"), row.get("image_info")
    if not isinstance(sentences, list) or not isinstance(info, list) or not all(isinstance(s, str) for s in sentences):
        raise ValueError("no text_list and image_info")
    chosen = _chosen(row, sentences, info, least, where, skips)
    data = read_images(root, [name for name, _ in chosen], skips, folders)
    placed = [(Image(d), index) for d, (_, index) in zip(data, chosen, strict=True) if d is not None]
    if len(placed) < fewest:
        raise ValueError("page with too few images")
    segments = _segments(sentences, placed)
    if not any(isinstance(s, Text) for s in segments):
        raise ValueError("page without text")
    return Sample(segments, where, SOURCE, {"url": row["url"]} if isinstance(row.get("url"), str) else {})


def assign(similarity: np.ndarray) -> np.ndarray:
    """[images, sentences] → the sentence of each image [images]: each sentence taken once while there are enough of them."""
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    sentence = similarity.argmax(axis=1)
    sentence[rows] = columns
    return sentence


def _chosen(row: dict, sentences: list, info: list, least: float, where: str, skips: Skips) -> list[tuple[object, int]]:
    """(file name, index of its sentence) of the pictures that are similar enough."""
    matrix = _matrix(row.get("similarity_matrix"), len(info), len(sentences))
    if matrix is not None:
        assigned = assign(matrix)
        matches = [(int(index), float(matrix[image, index])) for image, index in enumerate(assigned)]
    else:
        matches = [_published(entry, len(sentences)) for entry in info]
    chosen = []
    for entry, (index, similarity) in zip(info, matches, strict=True):
        if index < 0 or not isinstance(entry, dict):
            skips.add("image without a sentence", where)
        elif similarity < least:
            skips.add("image less similar than asked", where)
        else:
            chosen.append((entry.get("image_name"), index))
    return chosen


def _matrix(value: object, images: int, sentences: int) -> np.ndarray | None:
    """`None` where it is no finite [images, sentences]."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    whole = matrix.shape == (images, sentences) and matrix.size > 0 and np.isfinite(matrix).all()
    return matrix if whole else None


def _published(entry: object, sentences: int) -> tuple[int, float]:
    """The release's own (sentence, similarity) of an image; sentence -1 where there is none."""
    index, similarity = (entry.get("matched_text_index"), entry.get("matched_sim")) if isinstance(entry, dict) else (None, None)
    if type(index) is not int or not 0 <= index < sentences:
        return -1, 0.0
    return index, similarity if isinstance(similarity, float) else 0.0


def _segments(sentences: list[str], placed: list[tuple[Image, int]]) -> tuple[Segment, ...]:
    """Sentences joined by a blank, each picture before its own; several of one sentence in the page's order."""
    before: dict[int, list[Segment]] = defaultdict(list)
    for image, index in placed:
        before[index].append(image)
    segments: list[Segment] = []
    text = parting = ""
    for index, sentence in enumerate(sentences):
        if index in before:
            segments += [Text(text), *before[index]] if text else before[index]
            text = ""
        if sentence.strip():
            text += f"{parting}{sentence.strip()}"
            parting = " "
    return (*segments, Text(text)) if text else tuple(segments)
