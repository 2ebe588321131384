"""What an agent, its uploads and the files of a sandbox are, as docs/protocol.md tells it: no disk, no wire.

Every method is one thing that a caller, a program in the sandbox or time does. It changes the model, and
raises `Refusal` where the protocol refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.model_values import (
    EXPIRY,
    MAX_FILE,
    MAX_OWN,
    MAX_STAGED,
    MAX_UPLOADS,
    TOMBSTONE,
    Died,
    Entry,
    Refusal,
    State,
    Stop,
    Stream,
    Upload,
    Wish,
)
from digest_values import digest_of
from openshell_files_protocol.pb.openshell.v1.files_pb2 import Digest
from openshell_files_protocol.reasons import Reason


@dataclass
class World:
    """Files, uploads and streams.

    Attributes:
        versions: asks the sandbox for the version of what is at a path.
        occupies: asks the disk how many bytes of an upload's staging file are no hole.
        umask: of the agent.
    """

    versions: Callable[[str], str]
    occupies: Callable[[Upload], int]
    umask: int
    now: int
    files: dict[str, Entry] = field(default_factory=dict[str, Entry])
    uploads: list[Upload] = field(default_factory=list[Upload])
    transients: list[Upload] = field(default_factory=list[Upload])
    #: Streams that another took over from, or whose upload ended, and what they are told.
    displaced: list[tuple[Stream, Reason]] = field(default_factory=list[tuple[Stream, Reason]])
    #: Ids that mean nothing any more.
    forgotten: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def unfinished(self) -> list[Upload]:
        return [upload for upload in self.uploads if upload.state == "RECEIVING"]

    @property
    def staged_bytes(self) -> int:
        return sum(upload.occupied for upload in [*self.unfinished, *self.transients])

    def find(self, principal: str, *, upload_id: str = "", request_id: str = "") -> Upload | None:
        """RSM-2."""
        for upload in self.uploads:
            name = upload.upload_id if upload_id else upload.wish.request_id
            if upload.wish.principal == principal and name and name == (upload_id or request_id):
                return upload
        return None

    # -- StartUpload, GetUpload, AbortUpload

    def start(self, wish: Wish, digest: Digest | None = None) -> Upload:
        """RSM-1, RSM-9."""
        if digest is not None and digest.algorithm not in wish.accepted:
            raise Refusal(Reason.INVALID_REQUEST)
        found = self.find(wish.principal, request_id=wish.request_id) if wish.request_id else None
        if found is not None:
            self._same(found, wish)
            self._going_on(found)
            self.read(found)
            return found
        self._examine(wish)
        entry = self.files.get(wish.path)
        if (
            entry is not None
            and entry.kind == "file"
            and digest is not None
            and digest == digest_of(entry.content, digest.algorithm)
        ):
            adopted = self._adopt(wish, entry)
            if adopted is not None:
                adopted.found_by = digest.algorithm
                return adopted
        return self._admit(wish)

    def take_over(self, wish: Wish, upload_id: str) -> Upload:
        """RSM-5: StartUpload with an upload_id."""
        found = self.find(wish.principal, upload_id=upload_id)
        if found is None:
            raise Refusal(Reason.UPLOAD_UNKNOWN)
        self._same(found, wish)
        self._going_on(found)
        if found.state == "RECEIVING":
            found.epoch += 1
            found.updated = self.now
            self._displace(found, Reason.SUPERSEDED)
        self.read(found)
        return found

    def read(self, upload: Upload) -> None:
        """RSM-15: the staged bytes are read for their digest, if that was not done before."""
        if upload.state != "RECEIVING" or upload.hashed:
            return
        self._require_staging(upload)
        upload.staged = (upload.disk or b"")[: len(upload.staged)]
        upload.occupied = min(upload.occupied, self.occupies(upload))
        upload.hashed = True

    def abort(self, principal: str, upload_id: str) -> Upload:
        """RSM-10."""
        found = self.find(principal, upload_id=upload_id)
        if found is None:
            raise Refusal(Reason.UPLOAD_UNKNOWN)
        if found.state == "RECEIVING":
            self._displace(found, Reason.UPLOAD_ABORTED)
            self._end(found, "ABORTED")
        return found

    # -- UploadFile

    def attach(self, wish: Wish, upload_id: str = "", epoch: int = 0) -> Stream:
        """RSM-17, RSM-18: the first message of UploadFile."""
        explicit = wish.explicit or bool(upload_id)
        if upload_id:
            found = self.find(wish.principal, upload_id=upload_id)
            if found is None:
                raise Refusal(Reason.UPLOAD_UNKNOWN)
        else:
            found = self.find(wish.principal, request_id=wish.request_id) if wish.request_id else None
        if found is None:
            self._examine(wish)
            upload = self._admit(wish) if wish.request_id else Upload(wish, named=False, updated=self.now)
            if not upload.named:
                self.transients.append(upload)
            upload.holder = Stream(upload, explicit, 0, replay=False)
            return upload.holder
        self._same(found, wish)
        self._going_on(found)
        if found.state == "PUBLISHED":
            return Stream(found, explicit, 0, replay=True)
        if upload_id and epoch != found.epoch:
            raise Refusal(Reason.SUPERSEDED if epoch < found.epoch else Reason.INVALID_REQUEST)
        self._require_staging(found)
        assert found.disk is not None
        if not upload_id:
            # The caller has not learnt an offset: it starts over.
            found.staged = found.disk = b""
            found.occupied = 0
            found.epoch += 1
            found.updated = self.now
        elif len(found.disk) < len(found.staged):
            found.staged = found.disk
            found.occupied = min(found.occupied, self.occupies(found))
        else:
            found.disk = found.disk[: len(found.staged)]
            found.staged = found.staged if found.hashed else found.disk
        found.hashed = True
        self._displace(found, Reason.SUPERSEDED)
        found.holder = Stream(found, explicit, len(found.staged), replay=False)
        return found.holder

    def chunk(
        self, stream: Stream, data: bytes, *, offset: int | None = None, hole: int = 0, crc_ok: bool = True
    ) -> None:
        """UPL-2, UPL-5, UPL-7, RSM-32; `offset` is None for a chunk of the RFC."""
        kind = "chunk" if offset is None else "data"
        if stream.kind not in {"", kind}:
            raise self._over(stream, Reason.INVALID_REQUEST)
        stream.kind = kind
        if hole and not crc_ok:
            raise self._over(stream, Reason.CHUNK_CHECKSUM)
        size = hole or len(data)
        if stream.replay:
            stream.position += size
            return
        upload = stream.upload
        if offset not in {None, stream.position}:
            raise self._over(stream, Reason.OFFSET_MISMATCH)
        declared = upload.wish.declared
        if declared is not None and stream.position + size > declared:
            raise self._over(stream, Reason.SIZE_MISMATCH, keep=stream.explicit)
        if stream.position + size > MAX_FILE:
            raise self._over(stream, Reason.FILE_TOO_LARGE)
        if not crc_ok:
            raise self._over(stream, Reason.CHUNK_CHECKSUM)
        if not hole and self.staged_bytes + size > MAX_STAGED:
            raise self._over(stream, Reason.QUOTA_EXCEEDED, keep=False)
        stream.position += size
        upload.staged += data or bytes(hole)
        if upload.named:
            assert upload.disk is not None
            upload.disk += data or bytes(hole)
        upload.occupied += len(data)
        upload.updated = self.now

    def finish(self, stream: Stream, size: int, digest: Digest, *, stop: Stop = "") -> Upload:
        """UPL-3, RSM-6, DIG-5.

        Raises:
            Died: it came as far as `stop`.
        """
        if not stream.explicit:
            raise self._over(stream, Reason.INVALID_REQUEST)
        upload = stream.upload
        if digest.algorithm != upload.algorithm:
            raise self._over(stream, Reason.INVALID_REQUEST)
        if stream.replay:
            if (size, digest) != (len(upload.result), digest_of(upload.result, digest.algorithm)):
                raise Refusal(Reason.FINISH_CONFLICT)
            return upload
        if size != stream.position or upload.wish.declared not in {None, size}:
            raise self._over(stream, Reason.SIZE_MISMATCH, keep=False)
        if stop == "received":
            raise Died
        if digest != digest_of(upload.staged, digest.algorithm) or (
            upload.named and upload.disk != upload.staged
        ):
            raise self._over(stream, Reason.DIGEST_MISMATCH, keep=False)
        return self._publish(stream, stop)

    def end(self, stream: Stream, *, clean: bool) -> Upload:
        """UPL-1, UPL-2, UPL-11: the stream is over, without a finish."""
        if stream.explicit or not clean:
            raise self._over(stream, Reason.UPLOAD_INCOMPLETE)
        if stream.position != stream.upload.wish.size:
            raise self._over(stream, Reason.SIZE_MISMATCH, keep=False)
        if stream.replay:
            return stream.upload
        if stream.upload.named and stream.upload.disk != stream.upload.staged:
            raise self._over(stream, Reason.DIGEST_MISMATCH, keep=False)
        return self._publish(stream, "")

    # -- time, death

    def sweep(self) -> int:
        """RSM-8, RSM-22: return how many expired."""
        expired = 0
        for upload in list(self.uploads):
            if upload.state == "RECEIVING" and self.now - upload.updated > EXPIRY:
                self._displace(upload, Reason.UPLOAD_EXPIRED)
                self._end(upload, "EXPIRED")
                expired += 1
            elif upload.state != "RECEIVING" and self.now - upload.updated > TOMBSTONE:
                self.forget(upload)
        return expired

    def restarted(self) -> None:
        """RSM-3: the agent is another one."""
        self.transients.clear()
        for upload in self.unfinished:
            upload.holder = None
            if upload.disk is None:
                self.forget(upload)
                continue
            upload.staged = upload.disk
            upload.occupied = self.occupies(upload)
            upload.hashed = False

    def forget(self, upload: Upload) -> None:
        """RSM-24: what became of it cannot be known (any more)."""
        self.uploads.remove(upload)
        self.forgotten.append((upload.wish.principal, upload.upload_id))

    def _adopt(self, wish: Wish, entry: Entry) -> Upload | None:
        """RSM-9: nothing needs to be sent."""
        if wish.declared not in {None, len(entry.content)}:
            return None
        self.files[wish.path] = Entry("file", entry.content, wish.mode or entry.mode)
        upload = Upload(wish, named=True, updated=self.now, state="PUBLISHED", identical=True)
        upload.result = entry.content
        self.uploads.append(upload)
        return upload

    # -- rules that several of these share

    def _admit(self, wish: Wish) -> Upload:
        while self._full(wish.principal):
            self._give_way(wish.principal)
        upload = Upload(wish, named=True, updated=self.now)
        self.uploads.append(upload)
        return upload

    def _full(self, principal: str) -> bool:
        own = [upload for upload in self.unfinished if upload.wish.principal == principal]
        return len(own) >= MAX_OWN or len(self.unfinished) >= MAX_UPLOADS

    def _give_way(self, principal: str) -> None:
        """RSM-27: the caller's own that moved least recently, unless a stream has it."""
        idle = [
            upload
            for upload in self.unfinished
            if upload.wish.principal == principal and upload.holder is None
        ]
        if not idle:
            raise Refusal(Reason.TOO_MANY_UPLOADS)
        last = min(idle, key=lambda upload: (upload.updated, upload.upload_id))
        self._end(last, "EXPIRED")
        last.failure = Reason.TOO_MANY_UPLOADS.name

    def _require_staging(self, upload: Upload) -> None:
        """RSM-24: a program in the sandbox removed what was staged."""
        if upload.disk is None:
            self._displace(upload, Reason.UPLOAD_UNKNOWN)
            self.forget(upload)
            raise Refusal(Reason.UPLOAD_UNKNOWN)

    def _same(self, upload: Upload, wish: Wish) -> None:
        if upload.wish.fingerprint != wish.fingerprint or upload.algorithm not in wish.accepted:
            raise Refusal(Reason.UPLOAD_CONFLICT)

    def _going_on(self, upload: Upload) -> None:
        if upload.state in {"ABORTED", "EXPIRED"}:
            raise Refusal(Reason[f"UPLOAD_{upload.state}"])

    def _examine(self, wish: Wish) -> None:
        """CND-1, CND-2, PTH-4."""
        entry, condition = self.files.get(wish.path), wish.condition
        if wish.size > MAX_FILE:
            raise Refusal(Reason.FILE_TOO_LARGE)
        if condition is not None and condition.kind == "absent":
            if entry is not None:
                raise Refusal(Reason.FILE_EXISTS)
            return
        if entry is None:
            if condition is not None:
                raise Refusal(Reason.CONDITION_FAILED)
            return
        if entry.kind != "file":
            raise Refusal(Reason.IS_A_DIRECTORY if entry.kind == "directory" else Reason.LEAF_IS_LINK)
        if condition is None:
            return
        if condition.kind == "version" and condition.version != self.versions(wish.path):
            raise Refusal(Reason.CONDITION_FAILED)
        wanted = condition.digest
        if wanted is not None and wanted != digest_of(entry.content, wanted.algorithm):
            raise Refusal(Reason.CONDITION_FAILED)

    def _publish(self, stream: Stream, stop: Stop) -> Upload:
        upload, wish = stream.upload, stream.upload.wish
        entry = self.files.get(wish.path)
        try:
            if stop == "flushed":
                cheap = wish.condition if wish.condition and wish.condition.kind == "absent" else None
                self._examine(Wish(wish.path, condition=cheap))
                raise Died
            self._examine(wish)
        except Refusal as refusal:
            raise self._over(stream, refusal.reason, keep=False) from None
        if stop == "renaming":
            raise Died
        mode = wish.mode or (entry.mode if entry is not None else 0o666 & ~self.umask)
        self.files[wish.path] = Entry("file", upload.staged, mode & 0o777)
        upload.result = upload.staged
        self._leave(stream)
        if upload.named:
            self._end(upload, "PUBLISHED")
        return upload

    def _over(self, stream: Stream, reason: Reason, *, keep: bool = True) -> Refusal:
        """UPL-11, RSM-10: a stream ends with an error."""
        if not stream.replay:
            self._leave(stream)
            if not keep and stream.upload.named:
                self._end(stream.upload, "ABORTED")
                stream.upload.failure = reason.name
        return Refusal(reason)

    def _leave(self, stream: Stream) -> None:
        stream.upload.holder = None
        if stream.upload in self.transients:
            self.transients.remove(stream.upload)

    def _end(self, upload: Upload, state: State) -> None:
        upload.state = state
        upload.updated = self.now
        upload.occupied = 0
        upload.disk = None
        upload.holder = None

    def _displace(self, upload: Upload, reason: Reason) -> None:
        if upload.holder is not None:
            self.displaced.append((upload.holder, reason))
            upload.holder = None
