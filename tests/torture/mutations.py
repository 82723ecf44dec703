"""Faults for what is well formed: bytes with lengths in them, XML, JSON."""

import copy
import json
import random
from typing import Any
from xml.etree import ElementTree

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)
WORDS = (
    *("", " ", "0", "-1", "1e400", "nan", "inf", "65536", "99999999999999999999", "true", "null"),
    *("\u0130", "\u0662", "a" * 5000, "../../etc/passwd", "%s%n", "{}", "[]", "1_0", "0x10", "1.5"),
)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 2**70, "", "a" * 3000, [], {}, [[]], {"a": {}}, "\ud800"),
)
ENCODINGS = ("utf-7", "utf-16", "idna", "punycode", "cp037", "undefined", "latin-1", "none-such")


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Change bytes in one to three places: bits, numbers at their edges, cuts, doubled pieces."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        if not found:
            return b""
        place = draw.randrange(len(found))
        kind = draw.randrange(6)
        if kind == 0:
            found[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(EDGES) & ((1 << 8 * width) - 1)
            found[place : place + width] = number.to_bytes(width, "little")
        elif kind == 2:
            del found[place:]
        elif kind == 3:
            del found[place : place + draw.randint(1, 16)]
        elif kind == 4:
            found[place:place] = found[place : place + draw.randint(1, 64)]
        else:
            found[place:place] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
    return bytes(found)


def damaged_xml(text: bytes, draw: random.Random) -> bytes:
    """Change a tree in one to three places: texts, attributes, elements gone, doubled or deep."""
    if draw.random() < 0.1:
        encoding = draw.choice(ENCODINGS)
        body = text.partition(b"?>")[2] or text
        return f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body
    root = ElementTree.fromstring(text)
    for _ in range(draw.randint(1, 3)):
        parent = draw.choice(list(root.iter()))
        kind = draw.randrange(6)
        if kind == 0 or not len(parent):
            parent.text = draw.choice(WORDS)
        elif kind == 1:
            parent.remove(draw.choice(list(parent)))
        elif kind == 2:
            parent.append(copy.deepcopy(draw.choice(list(root))))
        elif kind == 3:
            name = draw.choice(list(parent.attrib) or ["name"])
            parent.set(name, draw.choice(WORDS))
        elif kind == 4:
            draw.choice(list(parent)).tag = draw.choice(("x", "name", "encoding", "{urn:x}y"))
        else:
            for _ in range(draw.choice((1, 50, 250))):  # three of these can still be written
                parent = ElementTree.SubElement(parent, "encoding")
        if sum(1 for _ in root.iter()) > 5000:
            break
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def damaged_json(text: str, draw: random.Random) -> str:
    """Change a value, a key, or the text itself."""
    if draw.random() < 0.1:
        return draw.choice(("[" * 3000, text[: draw.randrange(len(text))], "NaN", '"', ""))
    content = json.loads(text)
    if not isinstance(content, dict) or not content:
        return json.dumps(draw.choice(JSON_VALUES))
    node: Any = content
    for _ in range(draw.randint(0, 3)):
        inner = [v for v in (node.values() if isinstance(node, dict) else node) if v]
        inner = [value for value in inner if isinstance(value, dict | list)]
        if inner:
            node = draw.choice(inner)
    if isinstance(node, list):
        node[draw.randrange(len(node))] = draw.choice(JSON_VALUES)
    else:
        key = draw.choice(list(node))
        kind = draw.randrange(3)
        if kind == 0:
            node[key] = draw.choice(JSON_VALUES)
        elif kind == 1:
            del node[key]
        else:
            node[draw.choice(("", "x", "kind", "config"))] = draw.choice(JSON_VALUES)
    return json.dumps(content)
