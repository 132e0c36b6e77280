"""Ways to damage a file: its bytes at random, or one place of its structure, with the rest left whole."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree

import yaml

Damage = Callable[[bytes, Random], bytes]

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 60_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

DEEP = 20_000
VALUES = (
    *("null", "true", "false", "0", "-0", "1", "-1", "1.5", "-1e-9", "16777215", "16777216", "2147483647"),
    *("2147483648", "9223372036854775808", "1" + "0" * 30, "1" + "0" * 400, "1" + "0" * 5000, "1e308", "1e999"),
    *("NaN", "Infinity", "-Infinity", '""', '" "', '"."', '".."', '"../up.png"', '"a/../../up.png"', '"/etc/passwd"'),
    *('"C:\\\\up.png"', '"http://localhost:9/up.png"', '"file:///etc/passwd"', '"a b.png"', '"a\\nb\\u001b[31m.png"'),
    *(
        '"\\ud800"',
        '"\\udcff.png"',
        '"\\u0000"',
        '"雪/ü.png"',
        f'"{"x" * 300}"',
        f'"{"x/" * 3000}"',
        '"\\u202egnp.exe"',
    ),
    *("[]", "{}", "[[]]", "[{}]", '{"id": 1}', '{"id": 1, "id": 2}', '[{"id": 1, "isthing": 1}]', "[1, 2, 3, 4]"),
    *("[NaN, 0, 1e999, -5]", "[0, 0, 0, 0]", '{"size": [1, 1], "counts": "0"}', '{"size": [64, 96], "counts": [6144]}'),
    *("[" * DEEP, "[" * DEEP + "]" * DEEP, "[" * 900 + "]" * 900, '{"a":' * DEEP, "[" + "0," * 50_000 + "0]"),
    *("[" + "{}," * 20_000 + "{}]", '"' + "0" * 100_000 + '"', '"/9j/4AAQ"'),
)
"""Texts that a value of a JSON is replaced by; not all of them are JSON."""

YAML_VALUES = (
    *("!!python/object/apply:os.system ['exit 1']", "!!int x", "!!float x", "!!binary '?'", "!!timestamp x"),
    *("2001-99-99", "0x_", "0b_", "1:99:99", ".nan", ".inf", "-.inf", "~", "yes", "&a [*a]", "&a {b: *a}", "*a"),
    *("'{class_path: os.system}'", "{class_path: os.system, init_args: {}}", "0x" + "f" * 5000, "? [a]\n: b", "|\n x"),
    *VALUES,
)


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Bits, bytes and numbers changed; stretches cut, doubled or moved; the end cut off or added to."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(result) + 1), min(len(result), 1 << rng.randrange(12))
        kind = rng.randrange(8)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << rng.randrange(8)
        elif kind == 1 and result:
            result[at % len(result)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            layout = rng.choice((">H", "<H", ">I", "<I"))
            number = rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(layout))
            result[at : at + struct.calcsize(layout)] = struct.pack(layout, number)
        elif kind == 3:
            del result[at : at + length]
        elif kind == 4:
            result[at:at] = result[at : at + length]
        elif kind == 5:
            result[at : at + length] = rng.randbytes(length)
        elif kind == 6:
            del result[at:]
        else:
            result += rng.randbytes(length)
    return bytes(result)


def damage_json(data: bytes, rng: Random) -> bytes:
    """A JSON with one to four of its values or keys changed, or with damaged bytes."""
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    return _damage_tree(json.loads(data), rng, VALUES).encode("utf-8", "surrogatepass")


def damage_yaml(data: bytes, rng: Random) -> bytes:
    """Likewise a YAML file."""
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    return _damage_tree(yaml.safe_load(data), rng, YAML_VALUES).encode("utf-8", "surrogatepass")


def _damage_tree(tree: Any, rng: Random, values: Sequence[str]) -> str:
    holder = {"": copy.deepcopy(tree)}
    texts: list[str] = []

    def mark(text: str) -> str:
        texts.append(text)
        return f"@@{len(texts) - 1}@@"

    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        parent: Any = holder
        key: Any = ""
        while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
            parent = parent[key]
            key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        value = parent[key]
        kind = rng.randrange(10)
        if kind == 0 and parent is not holder:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        elif kind == 2 and isinstance(parent, list):
            other = rng.randrange(len(parent))
            parent[key], parent[other] = parent[other], parent[key]
        elif kind == 3 and isinstance(parent, dict) and parent is not holder:
            parent[key] = mark(f"{json.dumps(value)}, {json.dumps(key)}: {rng.choice(values)}")  # the key twice
        elif kind == 4 and isinstance(parent, dict) and parent is not holder:
            parent[rng.choice(["id", "name", "x" * 99, "", "isthing"])] = parent.pop(key)
        elif kind == 5 and isinstance(value, (int, float)):
            parent[key] = rng.choice((-value, value + 1, value - 1, value * 2**20, value / 3, str(value), [value]))
        else:
            parent[key] = mark(rng.choice(values))
    text = json.dumps(holder[""], ensure_ascii=rng.random() < 0.5)
    return re.sub('"@@([0-9]+)@@"', lambda found: texts[int(found[1])], text)


def damage_png(data: bytes, rng: Random) -> bytes:
    """A PNG with one of its chunks changed, and mostly with the checksum that belongs to it then."""
    chunks = _chunks(data)
    if rng.random() < 0.3 or not chunks:
        return damage_bytes(data, rng)
    kind = rng.randrange(7)
    row = rng.randrange(len(chunks))
    name, body = chunks[row]
    if kind == 0:
        head = bytearray(chunks[0][1])
        at = rng.choice((0, 4, 8, 9, 10, 11, 12))
        fresh = (
            struct.pack(">I", rng.choice(NUMBERS)) if at < 8 else bytes([rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))])
        )
        head[at : at + len(fresh)] = fresh
        chunks[0] = chunks[0][0], bytes(head)
    elif kind == 1:
        del chunks[row]
    elif kind == 2:
        chunks.insert(rng.randrange(len(chunks) + 1), (name, body))
    elif kind == 3:
        chunks[row] = name, damage_bytes(body, rng)
    elif kind == 4:
        bomb = zlib.compress(bytes(1 << 24))
        known = (b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb), (b"PLTE", bytes(768)), (b"tRNS", bytes(256))
        chunks.insert(rng.randrange(1, len(chunks) + 1), rng.choice(known))
    else:
        pixels = b"".join(body for name, body in chunks if name == b"IDAT")
        try:
            pixels = zlib.decompress(pixels)
        except zlib.error:
            return damage_bytes(data, rng)
        if kind == 5:
            pixels = damage_bytes(pixels, rng)
        else:
            pixels = pixels * rng.choice((0, 2, 100)) + pixels[: rng.randrange(len(pixels) + 1)]
        rest = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
        chunks = [*rest[:-1], (b"IDAT", zlib.compress(pixels)), *rest[-1:]]
    result = bytearray(data[:8])
    for name, body in chunks:
        checksum = zlib.crc32(name + body) ^ (rng.random() < 0.05)
        result += struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
    return bytes(result)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def damage_safetensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, most often with another value in one of the JSON texts inside it."""
    length = int.from_bytes(data[:8], "little")
    head, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.random()
    if kind < 0.1:
        return damage_bytes(data, rng)
    if kind < 0.3:  # other weights
        at, length = rng.randrange(len(rest)), 1 << rng.randrange(20)
        fresh = rng.choice((rng.randbytes(length), b"\xff\x7b" * length, b"\0" * length))[: len(rest) - at]
        return data[: 8 + len(head) + at] + fresh + rest[at + len(fresh) :]
    if kind < 0.4:
        return rng.choice((*NUMBERS, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    if kind < 0.7:
        content = json.loads(head)
        texts = content["__metadata__"]
        name = rng.choice(("model", "model", "inference", "categories", "format"))
        if name == "format":
            texts.pop(rng.choice(list(texts)))
        else:
            texts[name] = damage_json(texts[name].encode(), rng).decode("utf-8", "replace")
        head = json.dumps(content).encode()
    else:
        head = damage_json(head, rng)
    return len(head).to_bytes(8, "little") + head + rest


def damage_zip(data: bytes, rng: Random) -> bytes:
    """An archive with one of its members damaged, renamed, left out or doubled, and whole checksums."""
    if rng.random() < 0.4:
        return damage_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    row = rng.randrange(len(members))
    if rng.random() < 0.6:  # what says what the other members are
        row = next(n for n, (name, _) in enumerate(members) if name.endswith("data.pkl"))
    name, body = members[row]
    kind = rng.randrange(6)
    if kind == 0:
        del members[row]
    elif kind == 1:
        members.append((rng.choice((name, "../../up", "/up", "", "archive/data/999")), body))
    else:
        members[row] = name, damage_bytes(body, rng)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name), body)
    return result.getvalue()


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'


def damage_xml(data: bytes, rng: Random) -> bytes:
    """An XML file with one of its elements, attributes or tags changed, or with damaged bytes."""
    text = data.decode()
    kind = rng.randrange(8)
    if kind == 0:
        return damage_bytes(data, rng)
    if kind == 1:
        spots = list(re.finditer("<[^>]*>", text))
        spot = rng.choice(spots)
        fresh = rng.choice(("", spot[0] * 2, rng.choice(spots)[0], "<a>" * 10_000, "&b;", "&c;", "<!--", "<![CDATA["))
        return (text[: spot.start()] + fresh + text[spot.end() :]).encode()
    if kind > 3:
        return _damage_elements(text, rng)
    spot = rng.choice(list(re.finditer('"([^"]*)"', text)))
    fresh = rng.choice(VALUES).strip('"').replace("<", "").replace('"', "")[:200_000]
    if kind == 2:
        fresh = rng.choice(
            ("nan", "inf", "-1", "1e999", "&b;", "&c;", "0," * 9, "1,1;" * 50_000, "5;6", "1,2,3", " 7 ")
        )
        text = text.replace("?>", f"?>{LAUGHS}", 1) if "&" in fresh else text
        spot = rng.choice(list(re.finditer('"([^"]*)"', text)))
    return (text[: spot.start(1)] + fresh + text[spot.end(1) :]).encode("utf-8", "surrogatepass")


def _damage_elements(text: str, rng: Random) -> bytes:
    """Well-formed XML whose elements are left out, repeated, moved, nested or renamed, or have other attributes."""
    root = ElementTree.fromstring(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parent = rng.choice([one for one in root.iter() if len(one)])
        row = rng.randrange(len(parent))
        element, other = parent[row], rng.choice(list(root.iter()))
        kind = rng.randrange(8)
        if kind == 0:
            parent.remove(element)
        elif kind == 1:
            parent[row:row] = [copy.deepcopy(element) for _ in range(rng.choice((1, 2, 300)))]
        elif kind == 2 and other not in element.iter():  # another place, where it is then twice
            other.insert(rng.randrange(len(other) + 1), element)
        elif kind == 3:
            parent[row] = nested = ElementTree.Element(element.tag, element.attrib)
            for _ in range(rng.choice((1, 50, 150))):
                nested = ElementTree.SubElement(nested, element.tag, element.attrib)
            nested.append(element)
        elif kind == 4:
            element.tag = other.tag
        elif kind == 5 and element.attrib:
            name = rng.choice(list(element.attrib))
            value = element.attrib.pop(name)
            if rng.random() < 0.5:
                element.set(rng.choice([*other.attrib, "id", "x" * 1000]), value)
        elif kind == 6:
            element.attrib.update({f"a{number}": "1" for number in range(rng.choice((1, 20, 20_000)))})
        else:
            element.text = rng.choice(("", "1", other.text or "nan", "x" * 1_000_000))
        if not len(root):
            break
    return ElementTree.tostring(root, rng.choice(("utf-8", "utf-16", "latin-1")))


def damage_lines(data: bytes, rng: Random) -> bytes:
    """A table of text with one of its cells changed."""
    if rng.random() < 0.3:
        return damage_bytes(data, rng)
    cells = re.split(b"([\t\n])", data)
    cells[2 * rng.randrange(len(cells) // 2)] = rng.choice(
        (b"", b"-1", b"\xb2", "²".encode(), b"9" * 30, b"\0", b"x\ty")
    )
    return b"".join(cells)
