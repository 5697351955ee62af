# SPDX-License-Identifier: Apache-2.0
"""Writes model/unicode_tables.inc: where the Unicode tables inside `tokenizers` differ from those of PCRE2 10.42 (Unicode 14, which is
also Python 3.11's) and of utf8proc 2.8. Needs Python 3.11, `tokenizers` and libutf8proc; asks each about every code point.

Usage: make_unicode_tables.py
"""
import ctypes
import ctypes.util
import os
import unicodedata

from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD
from tokenizers.pre_tokenizers import Digits, Split

POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = ["L", "Lu", "Ll", "Lm", "Lo", "M", "N", "Nd", "No", "P", "S"]
STABLE, COMPAT, COMPOSE, DECOMPOSE = 2, 4, 8, 16
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "model", "unicode_tables.inc")


def ranges(points):
    result = []
    for c in sorted(points):
        if result and result[-1][1] == c - 1:
            result[-1][1] = c
        else:
            result.append([c, c])
    return result


def peer_category(category):
    """The code points that `tokenizers`' regex engine puts into \\p{category}."""
    found, split = set(), Split(Regex("\\P{%s}" % category), "removed")
    for start in range(0, len(POINTS), 4096):
        chunk = POINTS[start : start + 4096]
        for _, (a, b) in split.pre_tokenize_str("".join(map(chr, chunk))):
            found.update(chunk[a:b])
    return found


def peer_digits():
    """The code points that the Digits pre-tokenizer takes for digits."""
    found, digits = set(), Digits(individual_digits=True)
    for start in range(0, len(POINTS), 4096):
        chunk = POINTS[start : start + 4096]
        for _, (a, b) in digits.pre_tokenize_str("a".join(map(chr, chunk))):
            if b - a == 1 and a % 2 == 0:
                found.add(chunk[a // 2])
    return found


def inert_in_peer():
    """Code points that utf8proc decomposes, composes or reorders and the peer leaves alone, having older tables."""
    lib = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
    lib.utf8proc_map.restype = ctypes.c_ssize_t
    libc = ctypes.CDLL(None)

    def ours(text, options):
        data, out = text.encode(), ctypes.c_void_p()
        size = lib.utf8proc_map(data, ctypes.c_ssize_t(len(data)), ctypes.byref(out), options | STABLE)
        result = ctypes.string_at(out, size).decode()
        libc.free(out)
        return result

    forms = [(NFC(), COMPOSE), (NFD(), DECOMPOSE), (NFKC(), COMPOSE | COMPAT), (NFKD(), DECOMPOSE | COMPAT)]
    found = set()
    for c in POINTS:
        x = chr(c)
        texts = [x] + [t for m in "\u0301\u0323\u0345\u0334\u3099" for t in ("a" + x + m, "a" + m + x)]
        for peer, options in forms:
            if any(peer.normalize_str(t) != ours(t, options) for t in texts):
                found.add(c)
                # The parts of a pair the peer does not know must not compose either.
                found.update(map(ord, ours(x, DECOMPOSE)[1:]))
    return {c for c in found if all(f.normalize_str(chr(c)) == chr(c) for f, _ in forms)}


def rows(points, tail=""):
    items = ["{0x%X, 0x%X%s}," % (a, b, tail) for a, b in ranges(points)]
    return "".join("    " + " ".join(items[i : i + 5]) + "\n" for i in range(0, len(items), 5))


def main():
    assert unicodedata.unidata_version == "14.0.0", "Python 3.11 has the tables of PCRE2 10.42"
    text = "// SPDX-License-Identifier: Apache-2.0\n"
    text += "// Made by tests/golden/make_unicode_tables.py. Included by unicode_text.cc only.\n\n"
    text += "// Code points the peer's regex engine (Unicode 16) has in a category where Unicode 14 has not.\n"
    text += "constexpr CategoryRange kCategoryAdditions[] = {\n"
    for category in CATEGORIES:
        base = {c for c in POINTS if unicodedata.category(chr(c)).startswith(category)}
        peer = peer_category(category)
        assert base <= peer, category
        text += rows(peer - base, ', "%s"' % category)
    text += "};\n\n// What the Digits pre-tokenizer takes for a digit.\nconstexpr CodePointRange kDigits[] = {\n"
    text += rows(peer_digits()) + "};\n\n"
    text += "// Left alone by the peer's normalisation, which has older tables than utf8proc.\n"
    text += "constexpr CodePointRange kInertInNormalization[] = {\n" + rows(inert_in_peer()) + "};\n"
    with open(OUT, "w", encoding="utf-8") as f:
        f.write(text)


main()
