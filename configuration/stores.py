"""Folders in S3-compatible storage, with those methods of `pathlib.Path` that are used on them.

An object appears when all of its bytes are there, and replaces the one before it at once: so a file
that is written here is whole or not there. There is no rename, and no lock: what belongs together
is written first, and the one object that names it last. A folder exists as long as an object's name
begins with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from configuration.store_requests import AWS, TRY_S, ObjectStorageSection, ask

_T = TypeVar("_T")
SCHEMES = ("s3", "s3a")
#: What is asked for at once when an object is read piece by piece.
_READ_AHEAD = 1 << 20


def is_stored(text: str) -> bool:
    """Whether a configured path is in an object store."""
    return text.split("://", 1)[0] in SCHEMES and "://" in text


class Status:
    """Of an object. `st_size`: bytes; `st_mtime_ns`: when it was written, epoch ns."""

    def __init__(self, told: Any) -> None:
        self.st_size: int = told["size"]
        self.st_mtime: float = told["last_modified"].timestamp()
        self.st_mtime_ns = int(self.st_mtime * 1000) * 10**6
        self.tag: str | None = told["e_tag"]


class StorePath:
    """An object, or a folder of them, by `s3://bucket/key`. Any name is legal in a key.

    What `pathlib.Path` raises is raised here: FileNotFoundError, and OSError (StoreError).
    """

    __slots__ = ("_bucket", "_key", "_section")

    def __init__(self, uri: str, section: ObjectStorageSection = AWS) -> None:
        if not is_stored(uri):
            raise ValueError(f"{uri} is not of the form s3://bucket/folder")
        bucket, _, key = uri.split("://", 1)[1].partition("/")
        if not bucket:
            raise ValueError(f"{uri} has no bucket")
        self._bucket, self._section = bucket, section
        self._key = "/".join(part for part in key.split("/") if part)

    # -- names -------------------------------------------------------------------------------------

    def __truediv__(self, name: object) -> StorePath:
        return StorePath(f"{self}/{name}", self._section)

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._key}".rstrip("/")

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StorePath):
            return NotImplemented
        return (str(self), self._section) == (str(other), other._section)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: StorePath) -> bool:
        return str(self) < str(other)

    @property
    def name(self) -> str:
        """The part behind the last slash."""
        return self._key.rsplit("/", 1)[-1]

    @property
    def parent(self) -> StorePath:
        """The folder that it is in."""
        above = self._key.rpartition("/")[0]
        return StorePath(f"s3://{self._bucket}/{above}", self._section)

    def with_name(self, name: str) -> StorePath:
        """Another one in the same folder."""
        return self.parent / name

    # -- looking -----------------------------------------------------------------------------------

    def stat(self) -> Status:
        """Raises FileNotFoundError if there is no such object."""
        return Status(self._ask(lambda obstore, store: obstore.head(store, self._key)))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is an object in it."""

        def look(obstore: Any, store: Any) -> bool:
            return any(obstore.list(store, self._prefix or None, chunk_size=1))

        return self._ask(look)

    def exists(self) -> bool:
        """Whether it is an object or a folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[StorePath]:
        """The objects and folders in it; none if there is no such folder."""
        listed = self._ask(
            lambda obstore, store: obstore.list_with_delimiter(store, self._prefix or None)
        )
        names = [*listed["common_prefixes"], *(found["path"] for found in listed["objects"])]
        for name in names:
            last = name.rstrip("/").rsplit("/", 1)[-1]
            if name != self._key and last:
                yield self / last

    def walk(self) -> Iterator[tuple[str, Status]]:
        """All objects below it, at any depth: the name from here on, and its status.

        One request for each 1,000 of them.
        """

        def look(obstore: Any, store: Any) -> Any:
            return obstore.list(store, self._prefix or None).collect()

        for found in self._ask(look):
            yield found["path"][len(self._prefix) :], Status(found)

    # -- reading -----------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """All of an object. Raises FileNotFoundError."""
        return self._ask(lambda obstore, store: bytes(obstore.get(store, self._key).bytes()))

    def read_text(self) -> str:
        """All of an object as UTF-8. Raises FileNotFoundError."""
        return self.read_bytes().decode()

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """To be read, in pieces. Raises FileNotFoundError."""

        def begin(obstore: Any, store: Any) -> Any:
            return obstore.open_reader(store, self._key, buffer_size=_READ_AHEAD)

        reader = self._ask(begin)
        return io.BufferedReader(_Pieces(self, reader), _READ_AHEAD)

    # -- writing -----------------------------------------------------------------------------------

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing: a folder is there with the first object in it."""

    def write_bytes(self, data: bytes) -> int:
        """An object with these bytes; how many there are."""
        self.write_from(io.BytesIO(data))
        return len(data)

    def write_from(self, file: BinaryIO) -> None:
        """An object with what an open file has from here on, in several parts if it is large."""
        start = file.tell()

        def send(obstore: Any, store: Any) -> None:
            file.seek(start)
            obstore.put(store, self._key, file)

        self._ask(send)

    def create(self, data: bytes) -> str | None:
        """A new object; its tag. Raises AlreadyThereError if there is one of this name."""
        return self._put_if("create", data)

    def replace_if(self, tag: str, data: bytes) -> str | None:
        """Replace the object that has this tag; the new tag. Raises AlreadyThereError if it has
        another.
        """
        return self._put_if({"e_tag": tag}, data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object. A store does not say whether there was one."""
        self._ask(lambda obstore, store: obstore.delete(store, self._key))

    def rmdir(self) -> None:
        """Nothing: a folder goes with the last object in it."""

    def remove_all(self) -> None:
        """Delete all objects below it."""
        # from the leaves on: a store whose objects are files refuses what still has something in it
        for name in sorted((name for name, _ in self.walk()), reverse=True):
            (self / name).unlink()

    # -- the store ---------------------------------------------------------------------------------

    @property
    def section(self) -> ObjectStorageSection:
        """The service that it is in."""
        return self._section

    @property
    def address(self) -> str:
        """Text by which another process finds the same place, see `from_address`."""
        section = self._section
        said = {"endpoint": section.endpoint, "region": section.region}
        query = {name: value for name, value in said.items() if value is not None}
        if section.path_style is not None:
            query["path_style"] = str(section.path_style).lower()
        return f"s3://{self._bucket}/{quote(self._key)}?{urlencode(query)}"

    @property
    def _prefix(self) -> str:
        return f"{self._key}/" if self._key else ""

    def _put_if(self, mode: Any, data: bytes) -> str | None:
        def send(obstore: Any, store: Any) -> str | None:
            made = obstore.put(store, self._key, data, mode=mode, use_multipart=False)
            tag: str | None = made["e_tag"]
            return tag

        # once: of a second try nobody could say whether the first or another writer was refused
        return self._ask(send, for_s=0)

    def _ask(self, work: Callable[[Any, Any], _T], for_s: float = TRY_S) -> _T:
        return ask(self._section, self._bucket, str(self), work, for_s)


Folder = Path | StorePath


def folder(text: str, section: ObjectStorageSection = AWS) -> Folder:
    """The place that a configuration names: a local path, or `s3://bucket/folder`.

    Raises ValueError for another scheme.
    """
    if is_stored(text):
        return StorePath(text, section)
    url = urlsplit(text)
    if "://" not in text:
        return Path(text)
    if url.scheme == "file" and not url.netloc:
        from urllib.request import url2pathname

        return Path(url2pathname(url.path))
    raise ValueError(text)


def address_of(place: Folder) -> str:
    """Text by which another process finds the same place."""
    return place.address if isinstance(place, StorePath) else str(place)


def from_address(text: str) -> Folder:
    """The place of `address_of`."""
    if not is_stored(text):
        return Path(text)
    uri, _, query = text.partition("?")
    said = dict(parse_qsl(query))
    style = said.get("path_style")
    section = ObjectStorageSection(
        endpoint=said.get("endpoint"),
        region=said.get("region"),
        path_style=None if style is None else style == "true",
    )
    return StorePath(unquote(uri), section)


class _Pieces(io.RawIOBase):
    """An object as Python's own layers read files."""

    def __init__(self, path: StorePath, reader: Any) -> None:
        self._path, self._reader = path, reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, into: Any) -> int:
        at = self._reader.tell()

        def read(obstore: Any, store: Any) -> Any:
            self._reader.seek(at)
            return self._reader.read(len(into))

        data = memoryview(self._path._ask(read))
        into[: len(data)] = data
        return len(data)
