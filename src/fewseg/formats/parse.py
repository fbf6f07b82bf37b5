"""Annotation files as text, JSON, XML and YAML, in the encodings that tools write; nothing is run or fetched."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import yaml

from fewseg.core.errors import InvalidSupport, one_line

log = logging.getLogger(__name__)

_LONGEST: Final = 2 << 30
"""Bytes of the longest annotation file."""
_LONGEST_YAML: Final = 4 << 20
_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""What a text in each encoding begins with."""


def read_text(path: Path) -> str:
    """The file's text: UTF-8, UTF-16, UTF-32, or else, with a warning, GB18030, which tools wrote on Chinese Windows.

    Raises `InvalidSupport` for a file that cannot be read or is in another encoding.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise InvalidSupport(f"{path} is longer than {_LONGEST >> 30} GB: split it")
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidSupport(f"cannot read {path}: {error.strerror or error}; check the file") from error
    try:
        return raw.decode(_encoding(raw))
    except UnicodeDecodeError:
        pass
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        raise InvalidSupport(
            f"{path} is not UTF-8, UTF-16 or GB18030 text: save it as UTF-8, e.g. with iconv -f ENCODING -t UTF-8"
        ) from None
    log.warning("%s is not UTF-8: read as GB18030; if labels look wrong, save it as UTF-8", path)
    return text


def _encoding(raw: bytes) -> str:
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return name
    if raw[1:2] == b"\0" and raw[:1] != b"\0":
        return "utf-16-le"
    return "utf-16-be" if raw[:1] == b"\0" and raw[1:2] != b"\0" else "utf-8"


def parse_json(path: Path) -> Any:
    """The file as JSON, without labelme's embedded images, which would all be in memory: `imageData` is True there."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSupport(f"{path} is damaged or no JSON ({one_line(error):.200}): export it again") from error
    if isinstance(content, dict) and content.get("imageData"):
        content["imageData"] = True
    return content


def parse_xml(path: Path) -> ElementTree.Element:
    """The root element; raises `InvalidSupport` for what is no XML or declares a document type: it may expand."""
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InvalidSupport(f"{path} declares a document type: export it again, plain")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InvalidSupport(f"{path} is damaged or no XML ({one_line(error):.200}): export it again") from error


def parse_yaml(path: Path) -> Any:
    """The file as YAML of plain values; raises `InvalidSupport`."""
    text = read_text(path)
    if len(text) > _LONGEST_YAML:
        raise InvalidSupport(f"{path} is longer than a description of a data set: give the right file")
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSupport(f"{path} is damaged or no YAML ({one_line(error):.200}): write it again") from error
