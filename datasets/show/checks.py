"""Do a batch's masks say what its tokens say? Each is computed a second time, from the ids and the documents alone.

B rows, T tokens a row, M media.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm.batch import IGNORE, Batch


def faults(batch: Batch, image_id: int | None) -> list[str]:
    """One line for each mask that disagrees, naming the first place; none when all is right."""
    found = {
        "label is not the next token of its document": _wrong_labels(batch),
        "position does not count from the document's start": batch.positions != _positions(batch),
        "image seen is not the last one before the token in its document": batch.image_index != _last_image(batch, image_id),
    }
    lines = [f"{what}: row {r}, token {t}" for what, wrong in found.items() for r, t in wrong.nonzero()[:1].tolist()]
    if not torch.equal(batch.media_document, _owners(batch, image_id)):
        lines.append("rows and documents of the media are not those of their placeholders")
    if not torch.equal(batch.media_of_frame.unique(), torch.arange(batch.num_media)):
        lines.append("a medium has no frame")
    return lines


def _starts(document: Tensor) -> Tensor:
    """[B, T] bool: the first token of a document, and of the padding."""
    before = torch.nn.functional.pad(document[:, :-1], (1, 0), value=-2)
    return document != before


def _wrong_labels(batch: Batch) -> Tensor:
    following = torch.nn.functional.pad(batch.tokens[:, 1:], (0, 1), value=IGNORE)
    last = torch.nn.functional.pad(_starts(batch.document)[:, 1:], (0, 1), value=True)
    return (batch.labels != IGNORE) & (last | (batch.labels != following))


def _positions(batch: Batch) -> Tensor:
    """[B, T] places since the document's start; of padding, the column."""
    columns = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
    start = torch.where(_starts(batch.document), columns, 0).cummax(dim=1).values
    return torch.where(batch.document >= 0, columns - start, columns)


def _placeholders(batch: Batch, image_id: int | None) -> Tensor:
    """[B, T] bool"""
    return (batch.tokens == (-1 if image_id is None else image_id)) & (batch.document >= 0)


def _last_image(batch: Batch, image_id: int | None) -> Tensor:
    """[B, T] the number of the last placeholder up to the token, counted over the batch; -1 where its document has none yet."""
    count = _placeholders(batch, image_id).flatten().cumsum(0).view_as(batch.tokens)
    before = count - _placeholders(batch, image_id).long()  # seen before this token
    at_start = torch.where(_starts(batch.document), before, 0).cummax(dim=1).values
    return torch.where((count > at_start) & (batch.document >= 0), count - 1, -1)


def _owners(batch: Batch, image_id: int | None) -> Tensor:
    """[M, 2] row and document of each placeholder."""
    rows, columns = _placeholders(batch, image_id).nonzero(as_tuple=True)
    return torch.stack((rows, batch.document[rows, columns]), dim=1)
