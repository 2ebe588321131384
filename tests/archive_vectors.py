"""Makes the archives in `tests/vectors/archives`.

    python tests/archive_vectors.py

Every member is written by hand where tar would refuse to write it.
"""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zlib
from typing import Any, Final

import zstandard
from archive_cases import ARCHIVES

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
TIB: Final = 1 << 40

Case = dict[str, Any]

#: Below the directory in the cases with links that lead out: the file that nothing may change.
SECRET: Final = "../outside/secret"


def header(
    name: str, kind: bytes = tarfile.REGTYPE, *, form: Any = tarfile.PAX_FORMAT, **fields: Any
) -> bytes:
    """Return a header block, or several; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_000_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(form, "utf-8", "surrogateescape")


def file(name: str, content: bytes = b"x", **fields: Any) -> bytes:
    """Return a regular file with its content."""
    return header(name, size=len(content), **fields) + content + bytes(-len(content) % BLOCK)


def link(name: str, target: str) -> bytes:
    """Return a symbolic link."""
    return header(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> bytes:
    """Return a hard link."""
    return header(name, tarfile.LNKTYPE, linkname=target)


def directory(name: str, **fields: Any) -> bytes:
    """Return a directory."""
    return header(name, tarfile.DIRTYPE, **fields)


def extended(kind: bytes, content: bytes) -> bytes:
    """Return an extended header with any content."""
    return (
        header("extended", kind, size=len(content), form=tarfile.USTAR_FORMAT)
        + content
        + bytes(-len(content) % BLOCK)
    )


def damaged(block: bytes, at: int, value: bytes) -> bytes:
    """Return a header block with other bytes, and the checksum for them."""
    changed = bytearray(block)
    changed[at : at + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:BLOCK])
    return bytes(changed)


def parts(data: bytes) -> Any:
    """Return bytes in the notation of the vectors: runs of one byte are parts of their own."""
    found: list[dict[str, Any]] = []
    at = 0
    for run in re.finditer(rb"(.)\1{15,}", data, re.DOTALL):
        if run.start() > at:
            found.append({"hex": data[at : run.start()].hex()})
        found.append({"hex": run.group(1).hex(), "times": len(run.group())})
        at = run.end()
    if at < len(data):
        found.append({"hex": data[at:].hex()})
    return found


def case(
    name: str, clauses: list[str], archive: bytes | list[tuple[bytes, int]], outcome: Case, **more: Any
) -> Case:
    """Return a case. The archive may be given as bytes with the number of their repetitions."""
    pieces = [(archive, 1)] if isinstance(archive, bytes) else archive
    written: list[dict[str, Any]] = []
    for data, times in pieces:
        written += parts(data) if times == 1 else [{"hex": data.hex(), "times": times}]
    return {"name": name, "clauses": clauses, **more, "archive": written, "outcome": outcome}


def there(path: str, content: bytes = b"x", **more: Any) -> Case:
    """Return a file that is there afterwards."""
    return {"path": path, "content": content.hex(), **more}


def folder(path: str, **more: Any) -> Case:
    """Return a directory that is there afterwards."""
    return {"path": path, "type": "directory", **more}


def leads(path: str, target: str) -> Case:
    """Return a link that is there afterwards."""
    return {"path": path, "type": "link", "link_target": target}


def refused(path: str, reason: str = "INVALID_PATH") -> Case:
    """Return a problem."""
    return {"path": path, "reason": reason}


def names() -> list[Case]:
    """Names that lead out of the directory, or seem to."""
    plain = [
        ("an absolute name", "/etc/passwd"),
        ("an absolute name with two slashes", "//etc/passwd"),
        ("a name that leads out", "../outside/secret"),
        ("a name that leads out later", "a/../../outside/secret"),
        ("a name that leads out at its end", "a/.."),
        ("a name that leads out and back", "../top/a"),
        ("only two dots", ".."),
        ("a name that leads out over a dot", "./../outside/secret"),
    ]
    cases = [
        case(
            name,
            ["ARC-5"],
            file(path) + file("after") + END,
            {"entries": "2", "problems": [refused(path)], "files": [there("after")]},
        )
        for name, path in plain
    ]
    cases += [
        case(
            f"{name}, in a pax header",
            ["ARC-5"],
            header("ok", pax_headers={"path": path}, size=1) + b"x" + bytes(511) + END,
            {"entries": "1", "problems": [refused(path)], "files": []},
        )
        for name, path in plain[:3]
    ]
    record = b"200011 path=" + b"a/" * 99_999 + b"\n"
    deep = [
        (header("x", tarfile.XHDTYPE, form=tarfile.USTAR_FORMAT, size=len(record)), 1),
        (b"200011 path=", 1),
        (b"a/", 99_999),
        (b"\n" + bytes(-len(record) % BLOCK) + file("ok") + END, 1),
    ]
    cases += [
        case(
            "a name that leads out, in a long name of GNU tar",
            ["ARC-5"],
            extended(tarfile.GNUTYPE_LONGNAME, b"../outside/secret\0") + file("ok") + END,
            {"entries": "1", "problems": [refused("../outside/secret")], "files": []},
        ),
        case(
            "an absolute name by the prefix of its header",
            ["ARC-5"],
            damaged(header("passwd"), 345, b"/etc") + END,
            {"entries": "1", "problems": [refused("/etc/passwd")], "files": []},
        ),
        case(
            "backslashes, which are ordinary characters",
            ["ARC-5"],
            file("..\\outside\\secret") + END,
            {"entries": "1", "files": [there("..\\outside\\secret")]},
        ),
        case("a drive letter", ["ARC-5"], file("C:\\a") + END, {"entries": "1", "files": [there("C:\\a")]}),
        case(
            "dots and slashes that mean nothing",
            ["ARC-5"],
            file("./a/.//b") + END,
            {"entries": "1", "files": [folder("a"), there("a/b")]},
        ),
        case("three dots", ["ARC-5"], file("...") + END, {"entries": "1", "files": [there("...")]}),
        case(
            "a name with a line end",
            ["ARC-5"],
            file("a\nb") + END,
            {"entries": "1", "files": [there("a\nb")]},
        ),
        case(
            "an empty name",
            ["ARC-5"],
            damaged(header("a"), 0, b"\0" * 100) + END,
            {"entries": "1", "problems": [refused("")], "files": []},
        ),
        case(
            "a NUL byte in a pax header",
            ["ARC-5"],
            header("ok", pax_headers={"path": "a\0b"}) + END,
            {"entries": "1", "problems": [refused("a\0b")], "files": []},
        ),
        case(
            "a name that is not UTF-8",
            ["ARC-5"],
            damaged(header("a"), 0, b"\xff\xfe") + END,
            {"entries": "1", "files": [{"path": [{"hex": "fffe"}], "content": ""}]},
        ),
        case(
            "a component of 256 bytes",
            ["ARC-5"],
            file("n" * 256) + END,
            {"entries": "1", "problems": [refused("n" * 256)], "files": []},
        ),
        case(
            "a path of 100 000 components",
            ["ARC-5"],
            deep,
            {
                "entries": "1",
                "problems": [
                    {"path": [{"text": "a/", "times": 2047}, {"text": "a"}], "reason": "INVALID_PATH"}
                ],
                "files": [],
            },
        ),
        case(
            "100 directories in each other, of which only the file is in the archive",
            ["ARC-7"],
            file("a/" * 100 + "f") + END,
            {
                "entries": "1",
                "files": [*(folder("/".join("a" * n)) for n in range(1, 101)), there("a/" * 100 + "f")],
            },
        ),
        case(
            "the name of a staging file",
            ["ARC-17"],
            file(".openshell-upload-00") + file("after") + END,
            {
                "entries": "2",
                "problems": [refused(".openshell-upload-00", "PATH_FORBIDDEN")],
                "files": [there("after")],
            },
        ),
        case(
            "two names that differ in case",
            ["ARC-20"],
            file("Name", b"1") + file("name", b"2") + END,
            {"entries": "2", "files": [there("Name", b"1"), there("name", b"2")]},
            folding={
                "entries": "2",
                "problems": [refused("name", "FILE_EXISTS")],
                "files": [there("Name", b"1")],
            },
        ),
        case(
            "one name twice",
            ["ARC-20"],
            file("a", b"first") + file("b") + file("a", b"second") + END,
            {"entries": "3", "files": [there("a", b"second"), there("b")]},
        ),
        case(
            "one name twice, at once",
            ["ARC-20"],
            file("a", b"first") + file("a", b"second") + END,
            {"entries": "2", "files": [there("a", b"second")]},
        ),
    ]
    return cases


def links() -> list[Case]:
    """Links, and members that are written through one."""
    return [
        case(
            "a link that leads out is stored as it is",
            ["ARC-17"],
            link("l", SECRET) + END,
            {"entries": "1", "files": [leads("l", SECRET)]},
        ),
        case(
            "an absolute link is stored as it is",
            ["ARC-17"],
            link("l", "/etc/passwd") + END,
            {"entries": "1", "files": [leads("l", "/etc/passwd")]},
        ),
        case(
            "a file of the name of a link replaces the link",
            ["ARC-17"],
            link("l", SECRET) + file("l", b"new") + END,
            {"entries": "2", "files": [there("l", b"new")]},
        ),
        case(
            "a file below a link to a directory outside",
            ["ARC-17"],
            link("d", "../outside") + file("d/secret", b"new") + END,
            {
                "entries": "2",
                "problems": [refused("d/secret", "PARENT_NOT_FOUND")],
                "files": [leads("d", "../outside")],
            },
        ),
        case(
            "a file below a link to a directory inside",
            ["ARC-17"],
            directory("real") + link("d", "real") + file("d/a", b"new") + END,
            {
                "entries": "3",
                "problems": [refused("d/a", "PARENT_NOT_FOUND")],
                "files": [folder("real"), leads("d", "real")],
            },
        ),
        case(
            "a directory of the name of a link",
            ["ARC-17"],
            link("d", "../outside") + directory("d") + file("d/secret", b"new") + END,
            {
                "entries": "3",
                "problems": [refused("d", "LEAF_IS_LINK"), refused("d/secret", "PARENT_NOT_FOUND")],
                "files": [leads("d", "../outside")],
            },
        ),
        case(
            "a link over a link over a link",
            ["ARC-17"],
            link("a", "..") + link("b", "a/outside") + file("b/secret", b"new") + END,
            {
                "entries": "3",
                "problems": [refused("b/secret", "PARENT_NOT_FOUND")],
                "files": [leads("a", ".."), leads("b", "a/outside")],
            },
        ),
        case(
            "a link in the directory before",
            ["ARC-17"],
            file("d/secret", b"new") + END,
            {
                "entries": "1",
                "problems": [refused("d/secret", "PARENT_NOT_FOUND")],
                "files": [leads("d", "../outside")],
            },
            before=[leads("d", "../outside")],
        ),
        case(
            "a file where a link is",
            ["ARC-17"],
            file("l", b"new") + END,
            {"entries": "1", "files": [there("l", b"new")]},
            before=[leads("l", SECRET)],
        ),
        case(
            "a hard link to an earlier member",
            ["ARC-18"],
            file("a", b"1") + hard("b", "a") + END,
            {"entries": "2", "files": [there("a", b"1"), there("b", b"1", same_as="a")]},
        ),
        case(
            "a hard link with a dot",
            ["ARC-18"],
            file("./a", b"1") + hard("./b", "./a") + END,
            {"entries": "2", "files": [there("a", b"1"), there("b", b"1", same_as="a")]},
        ),
        case(
            "a hard link outside",
            ["ARC-5"],
            hard("h", SECRET) + file("h", b"new") + END,
            {"entries": "2", "problems": [refused("h")], "files": [there("h", b"new")]},
        ),
        case(
            "an absolute hard link",
            ["ARC-5"],
            hard("h", "/etc/passwd") + END,
            {"entries": "1", "problems": [refused("h")], "files": []},
        ),
        case(
            "a hard link over a link",
            ["ARC-18"],
            link("d", "../outside") + hard("h", "d/secret") + file("h", b"new") + END,
            {
                "entries": "3",
                "problems": [refused("h", "FILE_NOT_FOUND")],
                "files": [leads("d", "../outside"), there("h", b"new")],
            },
        ),
        case(
            "a hard link to a link that leads out",
            ["ARC-18"],
            link("l", SECRET) + hard("h", "l") + file("h", b"new") + END,
            {"entries": "3", "files": [leads("l", SECRET), there("h", b"new")]},
        ),
        case(
            "a hard link to a later member",
            ["ARC-18"],
            hard("b", "a") + file("a", b"1") + END,
            {"entries": "2", "problems": [refused("b", "FILE_NOT_FOUND")], "files": [there("a", b"1")]},
        ),
        case(
            "a hard link to itself",
            ["ARC-18"],
            hard("a", "a") + END,
            {"entries": "1", "problems": [refused("a", "FILE_NOT_FOUND")], "files": []},
        ),
        case(
            "a hard link to a directory",
            ["ARC-18"],
            directory("d") + hard("h", "d") + END,
            {"entries": "2", "problems": [refused("h", "FILE_NOT_FOUND")], "files": [folder("d")]},
        ),
        case(
            "a file that is written over a hard link changes only its own name",
            ["ARC-18"],
            file("a", b"1") + hard("b", "a") + file("b", b"2") + END,
            {"entries": "3", "files": [there("a", b"1"), there("b", b"2")]},
        ),
        case(
            "a link without a target",
            ["ARC-5"],
            header("l", tarfile.SYMTYPE) + END,
            {"entries": "1", "problems": [refused("l")], "files": []},
        ),
    ]


def members() -> list[Case]:
    """Types of members, their modes, and their order."""
    sparse = damaged(
        header("s", b"S", form=tarfile.GNU_FORMAT, size=3), 386, b"%011o\0%011o\0" % (TIB - 3, 3)
    )
    sparse = damaged(sparse, 483, b"\x80" + TIB.to_bytes(11, "big"))
    pax_sparse = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s",
        "GNU.sparse.realsize": str(TIB),
    }
    special = [
        ("a FIFO", tarfile.FIFOTYPE),
        ("a character device", tarfile.CHRTYPE),
        ("a block device", tarfile.BLKTYPE),
        ("an unknown type", b"Z"),
    ]
    return [
        *(
            case(
                name,
                ["ARC-15"],
                header("s", kind, devmajor=1, devminor=3) + file("after") + END,
                {"entries": "2", "problems": [refused("s", "NOT_A_REGULAR_FILE")], "files": [there("after")]},
            )
            for name, kind in special
        ),
        case(
            "a sparse file of 1 TiB in GNU's form",
            ["ARC-15"],
            sparse + b"end" + bytes(509) + file("after") + END,
            {"entries": "2", "problems": [refused("s", "NOT_A_REGULAR_FILE")], "files": [there("after")]},
        ),
        case(
            "a sparse file of 1 TiB in GNU's form, with a longer map",
            ["ARC-15"],
            damaged(sparse, 482, b"\1")
            + bytes(504)
            + b"\1"
            + bytes(7)
            + bytes(512)
            + b"end"
            + bytes(509)
            + file("after")
            + END,
            {"entries": "2", "problems": [refused("s", "NOT_A_REGULAR_FILE")], "files": [there("after")]},
        ),
        case(
            "a sparse file of 1 TiB by pax",
            ["ARC-15"],
            header("s", pax_headers=pax_sparse, size=1024)
            + (b"1\n%d\n3\n" % (TIB - 3)).ljust(BLOCK, b"\0")
            + b"end"
            + bytes(509)
            + file("after")
            + END,
            {"entries": "2", "problems": [refused("s", "NOT_A_REGULAR_FILE")], "files": [there("after")]},
        ),
        case(
            "a set-user-id bit is left out",
            ["ARC-19"],
            file("a", mode=0o4755) + END,
            {"entries": "1", "files": [there("a", mode="0755")]},
        ),
        case(
            "nanoseconds by pax",
            ["ARC-2"],
            file("a", pax_headers={"mtime": "1000000000.123456789"}) + END,
            {"entries": "1", "files": [there("a", modified_seconds="1000000000", modified_nanos=123456789)]},
        ),
        case(
            "a global pax header",
            ["ARC-2"],
            extended(tarfile.XGLTYPE, b"30 mtime=1000000001.500000000\n") + file("a") + END,
            {"entries": "1", "files": [there("a", modified_seconds="1000000001", modified_nanos=500000000)]},
        ),
        case(
            "a time before 1970",
            ["ARC-2"],
            file("a", pax_headers={"mtime": "-1.5"}) + END,
            {"entries": "1", "files": [there("a", modified_seconds="-2", modified_nanos=500000000)]},
        ),
        case(
            "a directory without write permission before its content",
            ["ARC-7"],
            directory("d", mode=0o555) + file("d/a") + END,
            {
                "entries": "2",
                "files": [folder("d", mode="0555", modified_seconds="1000000000"), there("d/a")],
            },
        ),
        case(
            "a directory after its content",
            ["ARC-7"],
            file("d/a") + directory("d", mode=0o750) + END,
            {
                "entries": "2",
                "files": [folder("d", mode="0750", modified_seconds="1000000000"), there("d/a")],
            },
        ),
        case(
            "members of two directories in turns",
            ["ARC-7"],
            directory("d") + directory("e") + file("d/a") + file("e/a") + file("d/b") + END,
            {
                "entries": "5",
                "files": [
                    folder("d", modified_seconds="1000000000"),
                    folder("e", modified_seconds="1000000000"),
                    there("d/a"),
                    there("d/b"),
                    there("e/a"),
                ],
            },
        ),
        case(
            "a directory after its content and another member",
            ["ARC-7"],
            file("a") + file("d/a") + file("e") + directory("d", mode=0o750) + file("z") + END,
            {
                "entries": "5",
                "files": [
                    there("a"),
                    folder("d", mode="0750", modified_seconds="1000000000"),
                    there("d/a"),
                    there("e"),
                    there("z"),
                ],
            },
        ),
        case(
            "a directory to which the archive comes back, below directories without a member",
            ["ARC-7"],
            directory("d", mode=0o750) + file("d/a/b/c") + file("e") + file("d/f/g/h") + END,
            {
                "entries": "4",
                "files": [
                    folder("d", mode="0750", modified_seconds="1000000000"),
                    folder("d/a"),
                    folder("d/a/b"),
                    there("d/a/b/c"),
                    folder("d/f"),
                    folder("d/f/g"),
                    there("d/f/g/h"),
                    there("e"),
                ],
            },
        ),
        case(
            "a directory without write permission to which the archive comes back often",
            ["ARC-7"],
            directory("d", mode=0o555)
            + b"".join(
                file(f"d/{n}/a") + file(f"e{n}") + directory(f"d/{n}", mode=0o700 + n) for n in range(3)
            )
            + END,
            {
                "entries": "10",
                "files": [
                    folder("d", mode="0555", modified_seconds="1000000000"),
                    *(
                        folder(f"d/{n}", mode=f"0{0o700 + n:o}", modified_seconds="1000000000")
                        for n in range(3)
                    ),
                    *(there(f"d/{n}/a") for n in range(3)),
                    *(there(f"e{n}") for n in range(3)),
                ],
            },
        ),
        case(
            "a directory in whose place a file is, and to which the archive comes back",
            ["ARC-7", "ARC-17"],
            directory("d") + file("e") + file("d/a") + END,
            {
                "entries": "3",
                "problems": [refused("d", "NOT_A_DIRECTORY"), refused("d/a", "PARENT_NOT_FOUND")],
                "files": [there("d"), there("e")],
            },
            before=[there("d")],
        ),
        case(
            "the directory itself",
            ["ARC-7"],
            directory("./") + file("./a") + END,
            {"entries": "2", "files": [there("a")]},
        ),
        case(
            "a file that exists, with other content and the same size and time",
            ["ARC-20"],
            file("a", b"new") + END,
            {"entries": "1", "files": [there("a", b"new")]},
            before=[there("a", b"old", modified_seconds="1000000000")],
        ),
        case(
            "a file where a directory is",
            ["ARC-17"],
            file("d") + END,
            {
                "entries": "1",
                "problems": [refused("d", "IS_A_DIRECTORY")],
                "files": [folder("d"), there("d/a")],
            },
            before=[folder("d"), there("d/a")],
        ),
        case(
            "a file below a file",
            ["ARC-17"],
            file("f", b"1") + file("f/a") + END,
            {"entries": "2", "problems": [refused("f/a", "PARENT_NOT_FOUND")], "files": [there("f", b"1")]},
        ),
        case(
            "what is there and not in the archive stays",
            ["ARC-7"],
            file("a") + END,
            {"entries": "1", "files": [there("a"), there("b", b"b")]},
            before=[there("b", b"b")],
        ),
        case(
            "an old archive, in which a slash makes a directory",
            ["ARC-2"],
            damaged(header("d/", tarfile.AREGTYPE, form=tarfile.USTAR_FORMAT), 257, bytes(8)) + END,
            {"entries": "1", "files": [folder("d")]},
        ),
        case("an archive without a member", ["ARC-6"], END, {"entries": "0", "files": []}),
    ]


def damage() -> list[Case]:
    """Archives that are not complete, or no archives."""
    whole = file("a", b"a") + file("b", b"b" * 600) + END
    invalid: Case = {"reason": "ARCHIVE_INVALID", "files": None}
    none: Case = {"reason": "ARCHIVE_INVALID", "files": []}
    first: Case = {"reason": "ARCHIVE_INVALID", "files": [there("a", b"a")]}
    zipped, framed = (
        gzip.compress(whole, mtime=0),
        zstandard.ZstdCompressor(write_checksum=True).compress(whole),
    )
    return [
        case("nothing", ["ARC-6"], b"", none),
        case("text", ["ARC-2"], b"this is no archive\n" * 40, none),
        case("a zip file", ["ARC-2"], b"PK\x03\x04" + bytes(600), none),
        case("less than a block", ["ARC-6"], whole[:100], none),
        case("cut off in a header", ["ARC-6"], whole[:1100], invalid),
        case("cut off in the content", ["ARC-6"], whole[:1700], invalid),
        case("cut off between two members", ["ARC-6"], whole[:1024], invalid),
        case("no block of zeros at the end", ["ARC-6"], whole[:-1024], invalid),
        case(
            "one block of zeros at the end",
            ["ARC-6"],
            whole[:-512],
            {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]},
        ),
        case(
            "zeros behind the end",
            ["ARC-6"],
            whole + bytes(9000),
            {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]},
        ),
        case("a second archive behind the end", ["ARC-6"], whole + file("c") + END, invalid),
        case("a member after one block of zeros", ["ARC-6"], whole[:-512] + file("c") + END, invalid),
        case(
            "a wrong checksum",
            ["ARC-2"],
            file("a", b"a") + b"\1" + file("b")[1:] + END,
            first | {"files": None},
        ),
        case("a negative size", ["ARC-2"], damaged(header("a"), 124, b"\xff" * 12) + END, none),
        case(
            "a size of 2 to the power of 88",
            ["ARC-2"],
            damaged(header("a"), 124, b"\x80\1" + bytes(10)) + END,
            invalid,
        ),
        case("a size that is no number", ["ARC-2"], damaged(header("a"), 124, b"wwwwwwwwwww\0") + END, none),
        case("a size that the content does not have", ["ARC-6"], header("a", size=TIB) + b"x" * 512, invalid),
        case(
            "a pax record that is longer than its header",
            ["ARC-2"],
            extended(tarfile.XHDTYPE, b"99 path=a\n") + file("a") + END,
            none,
        ),
        case(
            "a pax record without a length",
            ["ARC-2"],
            extended(tarfile.XHDTYPE, b"path=a\n") + file("a") + END,
            none,
        ),
        case(
            "a pax record of length 0",
            ["ARC-2"],
            extended(tarfile.XHDTYPE, b"0 path=a\n") + file("a") + END,
            none,
        ),
        case(
            "a pax size that is no number",
            ["ARC-2"],
            extended(tarfile.XHDTYPE, b"11 size=-1\n") + file("a") + END,
            none,
        ),
        case(
            "an extended header of 2 MiB",
            ["ARC-16"],
            extended(tarfile.XHDTYPE, b"x" * (2 << 20)) + file("a") + END,
            none,
        ),
        case(
            "an extended header that claims 1 TiB",
            ["ARC-16"],
            header("x", b"L", form=tarfile.GNU_FORMAT, size=TIB),
            none,
        ),
        case(
            "extended headers without end",
            ["ARC-16"],
            [(extended(tarfile.XHDTYPE, b""), 3000), (file("a") + END, 1)],
            none,
        ),
        case(
            "gzip", ["ARC-3"], zipped, {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]}
        ),
        case(
            "gzip in two members, with zeros behind it",
            ["ARC-3"],
            gzip.compress(whole[:700], mtime=0) + gzip.compress(whole[700:], mtime=0) + bytes(100),
            {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]},
        ),
        case("gzip that is cut off", ["ARC-3"], zipped[:-9], invalid),
        case("gzip with a wrong checksum", ["ARC-3"], zipped[:-8] + b"\0\0\0\0" + zipped[-4:], invalid),
        case("other bytes behind gzip", ["ARC-3"], zipped + b"more", invalid),
        case(
            "zstd", ["ARC-3"], framed, {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]}
        ),
        case(
            "zstd in two frames",
            ["ARC-3"],
            zstandard.ZstdCompressor().compress(whole[:700])
            + zstandard.ZstdCompressor().compress(whole[700:]),
            {"entries": "2", "files": [there("a", b"a"), there("b", b"b" * 600)]},
        ),
        case("zstd that is cut off in its checksum", ["ARC-3"], framed[:-2], invalid),
        case("zstd with a wrong checksum", ["ARC-3"], framed[:-1] + bytes([framed[-1] ^ 1]), invalid),
        case("other bytes behind zstd", ["ARC-3"], framed + b"more", invalid),
    ]


def bounds() -> list[Case]:
    """Archives that become too large."""
    large: Case = {"reason": "ARCHIVE_TOO_LARGE", "files": None}
    member = header("zeros", size=1 << 33)
    packer = zlib.compressobj(9, wbits=31)
    bomb = (
        packer.compress(member)
        + b"".join(packer.compress(bytes(1 << 20)) for _ in range(80))
        + packer.flush()
    )
    # A zstd frame with a window of 128 KiB: the header as one raw block, then blocks of 128 KiB zeros of four bytes each.
    raw = len(member) << 3
    frame = b"\x28\xb5\x2f\xfd\0\x38" + raw.to_bytes(3, "little") + member
    zeros = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    zstd_bomb = [(frame, 1), (zeros, 65_535)]
    huge_window = b"\x28\xb5\x2f\xfd\0\xa8" + raw.to_bytes(3, "little") + member
    return [
        case("a bomb of gzip", ["ARC-4"], bomb, large, limits={"max_ratio": "200"}),
        case("a bomb of zstd that becomes 8 GiB", ["ARC-4"], zstd_bomb, large),
        case(
            "zeros of zstd beyond the limit on bytes",
            ["ARC-4"],
            zstd_bomb,
            large,
            limits={"max_bytes": "1000000", "max_ratio": "1000000"},
        ),
        case(
            "zstd with a window of 2 GiB", ["ARC-16"], huge_window, {"reason": "ARCHIVE_INVALID", "files": []}
        ),
        case(
            "a plain archive beyond the limit on bytes",
            ["ARC-4"],
            file("a", b"x" * 2000) + END,
            large,
            limits={"max_bytes": "2000"},
        ),
        case(
            "more entries than allowed",
            ["ARC-4"],
            file("a") + file("b") + file("c") + END,
            large,
            limits={"max_entries": "2"},
        ),
        case(
            "as many entries as allowed",
            ["ARC-4"],
            file("a") + file("b") + END,
            {"entries": "2", "files": [there("a"), there("b")]},
            limits={"max_entries": "2"},
        ),
        case(
            "entries that are refused count, too",
            ["ARC-4"],
            header("p", tarfile.FIFOTYPE) * 3 + END,
            large,
            limits={"max_entries": "2"},
        ),
    ]


FILES: Final = {
    "names": ("Names: absolute, leading out, too long, twice.", names),
    "links": ("Links and hard links that lead out, and members written through them.", links),
    "members": ("Types, modes, times and order of members.", members),
    "damage": ("Archives that are cut off or damaged, and compression.", damage),
    "bounds": ("Archives that become too large.", bounds),
}


def text(about: str, cases: list[Case]) -> str:
    """Return a file of vectors."""
    lines = ",\n".join("  " + json.dumps(one, ensure_ascii=True) for one in cases)
    return (
        f'{{\n "$schema": "schema.json",\n "about": {json.dumps(about)},\n "archives": [\n{lines}\n ]\n}}\n'
    )


if __name__ == "__main__":
    for name, (about, make) in FILES.items():
        (ARCHIVES / f"{name}.json").write_text(text(about, make()), encoding="utf-8")
