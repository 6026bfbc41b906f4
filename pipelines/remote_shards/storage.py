"""Files behind URLs, s3://, gs:// and http(s)://, through fsspec; whatever goes wrong is one line that says what to do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import aiohttp
import botocore.exceptions
import fsspec

from pipelines.shards import ShardError

Result = TypeVar("Result")
ATTEMPTS, FIRST_PAUSE_S = 3, 0.5
CHUNK_BYTES = 4 << 20
# beside OSError, what the libraries below fsspec raise for a connection or a service that fails
_FAILURES = (OSError, aiohttp.ClientError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}


def read_bytes(url: str) -> bytes:
    """The content of a small file. ShardError if it cannot be had."""

    def read() -> bytes:
        with _open(url) as source:
            return source.read()

    return _with_retries(url, read)


def download(url: str, target: Callable[[], BinaryIO]) -> None:
    """Copy a file into what `target` opens; each attempt opens it anew. ShardError if it cannot be had."""

    def copy() -> None:
        with _open(url) as source, target() as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)

    _with_retries(url, copy)


def _open(url: str) -> BinaryIO:
    files, path = fsspec.core.url_to_fs(url)
    stream: BinaryIO = files.open(path, "rb", block_size=CHUNK_BYTES)
    return stream


def _with_retries(url: str, work: Callable[[], Result]) -> Result:
    scheme = url.split("://")[0]
    failure: BaseException | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            return work()
        except FileNotFoundError as error:
            failure = _behind(error)
            if failure is None:
                raise ShardError(f"{url}: not found") from None
        except PermissionError as error:
            raise ShardError(f"{url}: not allowed: {_line(error)}; {_credentials(scheme)}") from None
        except botocore.exceptions.NoCredentialsError:
            raise ShardError(f"{url}: no credentials; {_credentials(scheme)}") from None
        except (ImportError, ValueError) as error:
            raise ShardError(f"{url}: {scheme}:// needs a package: pip install {_PACKAGES.get(scheme, scheme)} ({_line(error)})") from None
        except _FAILURES as error:
            failure = error
    assert failure is not None
    raise ShardError(f"{url}: cannot be read after {ATTEMPTS} attempts: {_line(failure)}") from None


def _behind(error: FileNotFoundError) -> BaseException | None:
    """What failed, where fsspec calls a connection that fails a file that is not there; None for one that is not there."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientResponseError):
        return None if cause.status in (404, 410) else cause
    return cause if isinstance(cause, aiohttp.ClientError | TimeoutError) else None


def _credentials(scheme: str) -> str:
    if scheme == "s3":
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if scheme == "gs":
        return "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"
    return "ask its owner for access"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:300]
