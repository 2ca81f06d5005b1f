"""safetensors files: a JSON header, then the bytes of the tensors. NumPy has no bfloat16, so the reader is our own.

The header's ``__metadata__`` holds ``kind``, ``classes`` (a JSON list) and ``task``. The format has no texts: ids and
groups that are texts are stored as rows of UTF-8 bytes, and ``text`` in the metadata lists their names.
"""

import json
import math

import numpy as np

from lastlayer._check import DataError
from lastlayer.io._fields import Arrays, columns_of, refuse_surrogates

_HEADER_LIMIT = 100_000_000  # the format's own
_MOST_AXES = 8  # JSON numbers may have thousands of digits, and a product of many such takes its time
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_CODES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


def read(file, form):
    """The tensors of an open file; bfloat16 and float16 become float32, which holds them exactly."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(_HEADER_LIMIT, size - 8):
        raise DataError(
            f"the header claims {length} bytes in a file of {size}.", field="header", fix="write or copy it again."
        )
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise DataError(f"the header is not JSON: {error}.", field="header", fix="write or copy it again.") from None
    if not isinstance(header, dict):
        raise DataError("the header is not an object.", field="header", fix="write or copy it again.")
    metadata = header.pop("__metadata__", {})
    tensors = {name: _claim(name, claim, size - 8 - length) for name, claim in header.items()}
    declared, texts = _declared(metadata)

    def get(name):
        code, dims, start, stop = tensors[name]
        file.seek(8 + length + start)
        array = np.frombuffer(file.read(stop - start), dtype=_DTYPES[code]).reshape(dims)
        if code == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        if code == "F16":
            return array.astype(np.float32)
        return _text(name, array) if name in texts else array

    return Arrays(tensors, get, lambda name: (_dtype(tensors[name][0]), tensors[name][1]), declared)


def write(outputs, file, form):
    """``outputs`` as tensors named after its columns."""
    columns, texts = columns_of(outputs), []
    for name, array in columns.items():
        if array.dtype.kind == "U":
            texts.append(name)
            encoded = np.strings.encode(array, "utf-8")
            columns[name] = encoded.view(np.uint8).reshape(len(array), -1)
    metadata = {"kind": outputs.kind, "classes": json.dumps(outputs.classes), "task": outputs.task}
    if texts:
        metadata["text"] = json.dumps(texts)
    write_tensors(columns, file, metadata)


def write_tensors(tensors, file, metadata=None):
    """Arrays by name as a file of tensors, the widest items first so that every tensor is aligned."""
    header, stop = {} if metadata is None else {"__metadata__": metadata}, 0
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    for name in order:
        array = tensors[name]
        start, stop = stop, stop + array.nbytes
        code = _CODES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [start, stop]}
    packed = json.dumps(header, ensure_ascii=False).encode()
    packed += b" " * (-len(packed) % 8)
    file.write(len(packed).to_bytes(8, "little") + packed)
    for name in order:
        array = tensors[name]
        file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)


def _claim(name, claim, size):
    """A tensor's dtype, shape and place, checked against the ``size`` bytes after the header."""
    try:
        code, dims, (start, stop) = claim["dtype"], tuple(claim["shape"]), claim["data_offsets"]
        whole = isinstance(code, str) and len(dims) <= _MOST_AXES
        whole = whole and all(type(n) is int and 0 <= n for n in (*dims, start, stop))
    except (TypeError, KeyError, ValueError):
        whole, code, dims, start, stop = False, None, (), 0, 0
    if not whole:
        raise DataError("its header entry has no dtype, shape and data_offsets.", field=name, fix="write it again.")
    if code not in _DTYPES:
        raise DataError(f"dtype {code!r} is not read.", field=name, fix="store F64, F32, F16, BF16 or integers.")
    need = np.dtype(_DTYPES[code]).itemsize * math.prod(dims)
    if not start <= stop <= size or stop - start != need:
        raise DataError(
            f"claims {dims!s:.80} of {code}, at {start!s:.20}..{stop!s:.20} of {size} bytes.",
            field=name,
            fix="write or copy it again.",
        )
    if need == 0:
        raise DataError(f"the tensor is empty, {dims}.", field=name, fix="check how the file was written.")
    return code, dims, start, stop


def _declared(metadata):
    """``kind``, ``classes`` and ``task`` of the metadata, and the names of the tensors that are texts."""
    if not isinstance(metadata, dict):
        raise DataError("the metadata is not an object.", field="__metadata__", fix="write it again.")
    declared = {name: metadata[name] for name in ("kind", "task") if name in metadata}
    if "classes" in metadata:
        declared["classes"] = _names(metadata, "classes")
    return declared, _names(metadata, "text") if "text" in metadata else []


def _names(metadata, field):
    try:
        names = json.loads(metadata[field])
    except (ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{field} in the metadata is not a JSON list of names.", field=field, fix="write it again.")
    refuse_surrogates(field, names)
    return names


def _text(name, array):
    if array.dtype != np.uint8 or array.ndim != 2:
        raise DataError("texts are rows of bytes.", field=name, fix="write it again.")
    try:
        return np.strings.decode(np.ascontiguousarray(array).view(f"S{array.shape[1]}")[:, 0], "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason}.", field=name, fix="write it again.") from None


def _dtype(code):
    return np.dtype(np.float32 if code in ("BF16", "F16") else _DTYPES[code])
