"""Pickles as Python 2 wrote them: its str held bytes, and texts of published data sets are such."""

import io
import pickle
import struct


class Python2Pickler(pickle._Pickler):
    def _string(self, content):
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch = pickle._Pickler.dispatch | {
        bytes: _string,
        str: lambda self, text: Python2Pickler._string(self, text.encode("latin1")),
    }


def python2(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")
