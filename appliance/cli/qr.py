"""QR codes (ISO/IEC 18004) of tokens: drawn to files, or with half blocks on a terminal.

The short form fits one symbol. A token is longer than any symbol holds, because of its post-quantum signature, so it
takes two or more, joined by structured append: some readers join them by themselves; with others, one text is put after
the other. Byte mode, since base64 needs both cases. segno is imported only when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from appliance.cli.files import write_file

if TYPE_CHECKING:
    from segno import QRCode

SYMBOL_CHARS: Final = 2_951  # version 40-L: 2,956 bytes less 40 bits of heads (ISO/IEC 18004, tables 7 and 3, 8.2)
_QUIET: Final = 4  # light modules around a symbol (9.1)
_SCALE: Final = 4  # pixels of a module

Kind = Literal["svg", "png"]


def symbol_count(text: str) -> int:
    """How many symbols the text takes."""
    return -(-len(text) // SYMBOL_CHARS)


def write_symbols(text: str, path: Path, kind: Kind) -> list[Path]:
    """Draw the symbols of an ASCII text into that file, or into PATH-1, PATH-2, ... beside it, for our user alone.

    Each is written whole or not at all. Raises `control.file`.
    """
    symbols = _draw(text)
    names = [path] if len(symbols) == 1 else [path.with_stem(f"{path.stem}-{n + 1}") for n in range(len(symbols))]
    for symbol, name in zip(symbols, names, strict=True):
        picture = io.BytesIO()
        symbol.save(picture, kind=kind, scale=_SCALE, border=_QUIET, light="#fff")
        write_file(name, picture.getvalue())
    return names


def terminal_lines(text: str) -> list[str]:
    """The symbols one below the other, two modules to a character; light modules are in the colour of the text."""
    lines: list[str] = []
    for symbol in _draw(text):
        picture = io.StringIO()
        symbol.terminal(picture, border=_QUIET, compact=True)
        lines += picture.getvalue().splitlines()
    return lines


def black_on_white(lines: Sequence[str]) -> list[str]:
    """Those lines for a terminal of whatever colours."""
    return [f"\x1b[97;40m{line}\x1b[0m" for line in lines]


def _draw(text: str) -> Sequence[QRCode]:
    import segno

    count = symbol_count(text)  # "l" is the least error correction: segno takes more where it costs no size
    if count == 1:
        return [segno.make_qr(text, mode="byte", error="l")]
    return list(segno.make_sequence(text, mode="byte", error="l", symbol_count=count))
