"""Requests to an S3-compatible service: where it is, and what is tried again.

Who is allowed in comes from the environment or the platform (`AWS_ACCESS_KEY_ID`, web identities,
the credentials of a container or a machine), never from a configuration.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec

from configuration.reading import Section

_T = TypeVar("_T")
#: For so long a request is tried again.
TRY_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class ObjectStorageSection(Section, frozen=True, kw_only=True):
    """`[object_storage]`: the S3-compatible service behind `s3://` (docs/object-storage.md).

    `endpoint`: its URL; that of AWS when absent. `region`: that of the environment when absent.
    `path_style`: buckets are in the path of a URL, not in its host name; true when absent and there
    is an `endpoint`.
    """

    endpoint: Annotated[str, msgspec.Meta(pattern="^https?://[^/]")] | None = None
    region: str | None = None
    path_style: bool | None = None

    @property
    def in_path(self) -> bool:
        """Whether the bucket's name is in the path."""
        return self.endpoint is not None if self.path_style is None else self.path_style


#: Everything as the environment says.
AWS = ObjectStorageSection()


class StoreError(OSError):
    """The store has refused, or does not answer; the message names the object, and why."""


class AlreadyThereError(StoreError):
    """Another writer was faster; see `StorePath.create` and `StorePath.replace`."""


def ask(
    section: ObjectStorageSection,
    bucket: str,
    name: str,
    work: Callable[[Any, Any], _T],
    for_s: float = TRY_S,
) -> _T:
    """What `work` makes of the library (obstore) and the bucket.

    The library tries requests again, but not an answer that breaks off; so this does, too, for
    `for_s` seconds.

    Raises FileNotFoundError and StoreError, with `name` (of the object) in the message.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
    from obstore.exceptions import PreconditionError as ChangedError

    end, pause = time.monotonic() + for_s, _FIRST_PAUSE_S
    while True:
        try:
            return work(obstore, _store(bucket, section))
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: there is no such object") from None
        except (AlreadyExistsError, ChangedError):
            raise AlreadyThereError(f"{name}: another writer was faster") from None
        except (BaseError, OSError) as error:
            passes = isinstance(error, GenericError | OSError)
            if not passes or time.monotonic() >= end:
                raise StoreError(f"{name}: {_why(error)}") from None
            time.sleep(pause * (1 + random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


@lru_cache(maxsize=16)
def _store(bucket: str, section: ObjectStorageSection) -> Any:
    from obstore.store import S3Store

    options: dict[str, Any] = {}
    if section.endpoint is not None:
        options["endpoint"] = section.endpoint
    if section.region is not None:
        options["region"] = section.region
    plain = (section.endpoint or "").startswith("http://")
    return S3Store(
        bucket,
        virtual_hosted_style_request=not section.in_path,
        client_options={"allow_http": plain, "timeout": "60 seconds"},
        retry_config={"max_retries": 15, "retry_timeout": timedelta(seconds=TRY_S)},
        **options,
    )


def _why(error: Exception) -> str:
    """The first line: behind it the library tells everything that it knows."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
