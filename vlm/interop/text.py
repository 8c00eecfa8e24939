"""The text side of a published model directory: its tokenizer, its chat template, and which tokens begin, end and pad a text.

    tokenizer.json             Hugging Face tokenizers
    tokenizer_config.json      special tokens by role, and in many directories the chat template
    special_tokens_map.json    the roles, where tokenizer_config.json does not give them
    chat_template.jinja, chat_template.json    the template, in newer directories; it goes before the one above

Only tokenizer.json can be read: a directory with slow tokenizer files alone (tokenizer.model) is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.processors import Sequence, TemplateProcessing

from vlm.files import read_json, read_text, read_tokenizer, write_json, write_text

TOKENIZER, SETTINGS, ROLES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"


@dataclass(frozen=True)
class TextFiles:
    """What stands beside the weights. Tokens are given as they are written; `None` where the model has none."""

    tokenizer: Tokenizer
    chat_template: str | None = None  # Jinja
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    add_bos: bool = False  # a plain text begins with `bos`

    def id(self, role: str) -> int | None:
        """The id of the token "bos", "eos", "pad" or "unk"."""
        token = getattr(self, role)
        return None if token is None else self.tokenizer.token_to_id(token)


def read_text_files(directory: str | Path) -> TextFiles:
    """Raises `ValueError` for a directory without tokenizer.json, and for a damaged file or role."""
    directory = Path(directory)
    tokenizer = read_tokenizer(directory / TOKENIZER)
    settings, roles = (read_json(p) if p.is_file() else {} for p in (directory / SETTINGS, directory / ROLES))
    special = {}
    for role in ("bos", "eos", "pad", "unk"):
        key = f"{role}_token"
        where, value = (SETTINGS, settings[key]) if settings.get(key) is not None else (ROLES, roles.get(key))
        special[role] = _token(value, key, directory / where, tokenizer)
    template = _read_template(directory, settings)
    return TextFiles(tokenizer, template, **special, add_bos=_adds_bos(tokenizer, special["bos"], settings))


def write_text_files(directory: Path, text: TextFiles) -> None:
    """Write tokenizer.json, and tokenizer_config.json with roles and template as all versions of transformers read them."""
    tokenizer = text.tokenizer
    if text.add_bos and text.bos is not None and not _begins(tokenizer, text.bos):
        tokenizer = _beginning(tokenizer, text.bos)
    write_text(directory / TOKENIZER, tokenizer.to_str())
    special = {f"{role}_token": getattr(text, role) for role in ("bos", "eos", "pad", "unk")}
    settings: dict = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": text.add_bos, **special}
    if text.chat_template is not None:
        settings["chat_template"] = text.chat_template
    write_json(directory / SETTINGS, {"clean_up_tokenization_spaces": False, **settings})


def _token(value: object, key: str, path: Path, tokenizer: Tokenizer) -> str | None:
    """A role is a string, or an object that holds it as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{path}: {key} {value!r} is not a token")
    return value if tokenizer.token_to_id(value) is not None else None


def _read_template(directory: Path, settings: dict) -> str | None:
    if (directory / TEMPLATE).is_file():
        return read_text(directory / TEMPLATE)
    path = directory / TEMPLATE_JSON
    path, template = (path, read_json(path).get("chat_template")) if path.is_file() else (directory / SETTINGS, None)
    template = template if template is not None else settings.get("chat_template")
    if isinstance(template, list):  # several by name
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{path}: chat_template is not a string but {json.dumps(template)[:60]}")
    return template


def _adds_bos(tokenizer: Tokenizer, bos: str | None, settings: dict) -> bool:
    if bos is None:
        return False
    said = settings.get("add_bos_token")
    return said if isinstance(said, bool) else _begins(tokenizer, bos)


def _begins(tokenizer: Tokenizer, bos: str) -> bool:
    """Does the tokenizer itself put `bos` before a text?"""
    return tokenizer.encode("").ids[:1] == [tokenizer.token_to_id(bos)]


def _beginning(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    """A copy that does."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    pair = [(bos, tokenizer.token_to_id(bos))]
    template = TemplateProcessing(single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=pair)
    before = tokenizer.post_processor
    tokenizer.post_processor = template if before is None else Sequence([before, template])
    return tokenizer
