"""A store in a bucket: Amazon S3 and its kin, Google Cloud Storage, Azure Blob Storage.

The one importer of obstore. Who may ask and where is taken from the environment variables that
the clouds' own tools read (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_ACCOUNT_NAME …), never from the location.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from pitr.archive.store import ObjectExists, ObjectInfo, check_key, prefix_folder
from pitr.errors import CorruptObject, ObjectMissing, PreconditionFailed, StoreUnusable

if TYPE_CHECKING:  # the library defines these two for type checkers only
    from obstore.store import ClientConfig, RetryConfig

# An address where nobody listens is given up after some 3 s, one that swallows packets after some
# 10 s. The library's own limits add up to minutes, in which a command would seem to hang.
_RETRIES: RetryConfig = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
_CONNECT_SECONDS = 3
# One request carries one object, at most some 32 MB: this asks for 0.3 MB/s, no more.
_REQUEST_SECONDS = 120

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Parts of variable names whose values must never be shown.
_SECRET = re.compile(r"SECRET|KEY|TOKEN|PASSWORD|SAS")

_NO_BUCKET = r"NoSuchBucket|ContainerNotFound|specified bucket does not exist"
_HINTS = (
    (
        _NO_BUCKET,
        "Create the bucket first, or mend its name: pitr makes none.",
    ),
    (
        r"169\.254\.169\.254|metadata\.google\.internal|InvalidAccessKeyId|NoCredential",
        "Put the credentials into the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and _KEY.",
    ),
    (
        r"SignatureDoesNotMatch|AuthenticationFailed|401 Unauthorized",
        "Check the secret of the access key in the environment.",
    ),
    (
        r"AccessDenied|403 Forbidden|PermissionDenied|AuthorizationPermissionMismatch",
        "Let the access key list, read, write and delete objects under this prefix.",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|301 Moved",
        "Set AWS_REGION to the region of the bucket.",
    ),
    (
        r"error sending request|dns error|tcp connect|timed out|Connection refused",
        "Check the network and the endpoint (AWS_ENDPOINT_URL); 'pitr' can be run again.",
    ),
)

_Objects = S3Store | GCSStore | AzureStore


class CloudStore:
    """Objects under one prefix of one bucket."""

    is_remote = True

    def __init__(self, objects: _Objects, location: str) -> None:
        """Wrap a store of obstore that is bound to the prefix already."""
        self._objects = objects
        self._location = location

    @property
    def location(self) -> str:
        """Return scheme, bucket and prefix; the location never held credentials."""
        return self._location

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raise ObjectExists when it does.

        A request that was repeated after its answer got lost may find the object that it wrote
        itself. Who must know puts a nonce into the object and reads it back.
        """
        check_key(key)
        try:
            obstore.put(self._objects, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            raise ObjectExists(key) from None
        except (BaseError, OSError) as error:
            raise self._unusable("write to", error) from None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same name whole."""
        check_key(key)
        try:
            # One request, as for put_new: parts of an upload that was killed would stay in the
            # bucket, unseen and paid for.
            obstore.put(self._objects, key, data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise self._unusable("write to", error) from None

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        check_key(key)
        try:
            return obstore.get(self._objects, key).bytes().to_bytes()
        except (BaseError, OSError) as error:
            raise self._unreadable(key, error) from None

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each half-open range (begin, end), in the order asked.

        Ranges less than 1 MiB apart travel in one request, and requests in parallel.
        """
        check_key(key)
        if any(not 0 <= begin <= end for begin, end in ranges):
            raise ValueError("not a range")
        # An empty range cannot be asked for over HTTP; nor need it be.
        asked = [(begin, end) for begin, end in ranges if begin < end]
        pieces = iter(self._get_ranges(key, asked) if asked else [])
        return [next(pieces) if begin < end else b"" for begin, end in ranges]

    def _get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        begins, ends = zip(*ranges, strict=True)
        try:
            found = obstore.get_ranges(self._objects, key, starts=begins, ends=ends)
        except (BaseError, OSError) as error:
            # A range that begins past the end is an error for the server, one that only ends
            # there comes back short; both mean the same.
            if "416 Range Not Satisfiable" in str(error):
                raise _past_end(key, max(ends)) from None
            raise self._unreadable(key, error) from None
        pieces = [piece.to_bytes() for piece in found]
        for piece, (begin, end) in zip(pieces, ranges, strict=True):
            if len(piece) != end - begin:
                raise _past_end(key, end)
        return pieces

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in ascending key order."""
        # The library's prefixes are whole folders, and no service but S3 promises an order.
        folder = prefix_folder(prefix)
        found = []
        try:
            for page in obstore.list(self._objects, folder or None, chunk_size=1000):
                for entry in page:
                    if entry["path"].startswith(prefix):
                        modified_us = (entry["last_modified"] - _EPOCH) // timedelta(microseconds=1)
                        found.append(ObjectInfo(entry["path"], entry["size"], modified_us))
        except (BaseError, OSError) as error:
            raise self._unusable("list", error) from None
        found.sort(key=lambda info: info.key)
        yield from found

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there is no error."""
        check_key(key)
        try:
            obstore.delete(self._objects, key)
        except (BaseError, OSError) as error:
            if not _is_missing_object(error):
                raise self._unusable("delete from", error) from None

    def _unreadable(self, key: str, error: Exception) -> ObjectMissing | StoreUnusable:
        if _is_missing_object(error):
            return ObjectMissing(key, location=self.location)
        return self._unusable("read", error)

    def _unusable(self, doing: str, error: Exception) -> StoreUnusable:
        text = str(error)
        hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)
        return StoreUnusable(
            f"cannot {doing} the archive at {self.location}", detail=_explain(text), hint=hint
        )


def open_cloud(scheme: str, bucket: str, prefix: str) -> CloudStore:
    """Return the store for s3, gs or az; nothing is asked of the network yet.

    Raises PreconditionFailed when the environment lacks or contradicts something.
    """
    location = f"{scheme}://{bucket}/{prefix}" if prefix else f"{scheme}://{bucket}"
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
        "allow_http": scheme == "s3" and _allow_http(),
    }
    kind: type[S3Store] | type[GCSStore] | type[AzureStore]
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        objects = kind(bucket, prefix=prefix or None, client_options=options, retry_config=_RETRIES)
    except (BaseError, ValueError) as error:
        raise PreconditionFailed(
            f"cannot use {location}",
            detail=_explain(str(error)),
            hint="Mend the location, or the environment variables of this service.",
        ) from None
    return CloudStore(objects, location)


def _allow_http() -> bool:
    """Return whether the endpoint is plain HTTP, and may be.

    Keys are not sent over it, but everybody on the way reads the archive: only this machine's own
    loopback address needs no word from the user.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    parts = urlsplit(endpoint)
    if parts.scheme != "http":
        return False
    said = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
    if not said and parts.hostname not in _LOOPBACK:
        raise PreconditionFailed(
            "the endpoint of the archive is not encrypted",
            detail=f"The endpoint is http://{parts.netloc.rpartition('@')[2]}.",
            hint="Use an https endpoint, or set AWS_ALLOW_HTTP=true.",
        )
    return True


def _is_missing_object(error: Exception) -> bool:
    # A missing bucket comes as the same exception, but is no missing object.
    return isinstance(error, FileNotFoundError) and not re.search(_NO_BUCKET, str(error))


def _past_end(key: str, end: int) -> CorruptObject:
    return CorruptObject(key, f"Bytes up to {end} are asked for, but it is shorter.")


def _explain(text: str) -> str:
    """Return one line of a library's error, without what could be a secret.

    Query strings of URLs carry signatures (Azure), and servers echo what they were sent.
    """
    text = text.partition("\n\nDebug source:")[0]
    text = re.sub(r"<\?xml[^>]*\?>\s*", "", text)
    text = re.sub(r"<Error>.*?<Code>(.*?)</Code>\s*<Message>(.*?)</Message>.*", r"\1: \2", text,
                  flags=re.DOTALL)  # fmt: skip
    text = re.sub(r"\?[^\s\"')]*", "?…", text)
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            text = text.replace(value, "…")
    return " ".join(text.split())[:400]
