"""Damaged and malicious content for files that the package must refuse to use."""

import os
from pathlib import Path


def flip_bit(content: bytes, position: int) -> bytes:
    """Return the content with one bit changed in the byte at this position."""
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


class FolderCreator:
    """Object that creates a folder when it is unpickled carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
