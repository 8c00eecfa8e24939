"""Other people's text, fit for a page: bounded, and nothing in it that hides or reorders what stands around it."""

from __future__ import annotations

LONGEST = 2000  # characters


def clean(text: object, length: int = LONGEST) -> str:
    """Text that a file of UTF-8 can hold and a reader can see: control characters and half surrogate pairs become visible."""
    text = str(text)
    cut = text[:length] + ("…" if len(text) > length else "")
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in cut)
