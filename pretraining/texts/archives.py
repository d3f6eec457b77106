"""Where texts come from: the files of a package or of a commit, by the clients of their registries.

debian  `apt-get download`, on Debian 12
git     `git fetch` of one commit
"""

import fnmatch
import gzip
import io
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 4 * 2**20
"""Files of a repository with more bytes are left out: partial clones lack them."""


@dataclass(frozen=True)
class Source:
    """A row of `sources.toml`.

    Attributes:
        name: of the output file, and `source` of its documents.
        what: what the texts are.
        licence: under which they may be passed on.
        kind: 'debian' or 'git'.
        at: name of the package, or address of the repository.
        version: of the package, or the commit.
        files: patterns of the paths that are read; `*` is any part of a path.
        reader: a key of `readers.READERS`.
        except_files: patterns of paths that are not.
        without: regular expression; lines with a match are not read.
        convert: an OpenCC conversion into simplified characters, such as 'tw2sp'.
        at_most: characters, of documents drawn at random; 0 for all.
    """

    name: str
    what: str
    licence: str
    kind: str
    at: str
    version: str
    files: Sequence[str]
    reader: str
    except_files: Sequence[str] = field(default=())
    without: str = ""
    convert: str = ""
    at_most: int = 0


class FetchError(Exception):
    """A source cannot be had."""


def run(command: Sequence[str | Path], folder: Path | None = None) -> bytes:
    """The output of a command.

    Raises:
        FetchError: it fails or is not there.
    """
    try:
        done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True)
    except OSError as error:
        raise FetchError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise FetchError(f"{' '.join(map(str, command))} fails: {' '.join(last)}")
    return done.stdout


def fetched(source: Source, downloads: Path, clones: Path | None = None) -> Path:
    """The package or repository of a source, downloaded unless it is there already.

    Args:
        source: which.
        downloads: the folder of what was downloaded.
        clones: a folder of clones `owner/name`, looked into before the network is.

    Raises:
        FetchError: it cannot be had.
    """
    if source.kind == "git":
        return repository(source, downloads, clones)
    folder = downloads / "debian" / f"{source.at}-{source.version}"
    if not list(folder.glob("*.deb")):
        folder.mkdir(parents=True, exist_ok=True)
        run(["apt-get", "download", f"{source.at}={source.version}"], folder)
    return next(folder.glob("*.deb"))


def repository(source: Source, downloads: Path, clones: Path | None) -> Path:
    """A bare clone that has the commit of a source, and no other unless it was there."""
    owner, name = source.at.split("/")[-2:]
    if clones and (clones / owner / name).is_dir():
        return clones / owner / name
    folder = downloads / "git" / owner / name
    try:
        run(["git", "-C", folder, "cat-file", "-e", source.version])
    except FetchError:
        run(["git", "init", "--quiet", "--bare", folder])
        run(["git", "-C", folder, "fetch", "--quiet", "--depth", "1", source.at, source.version])
    return folder


def read_files(source: Source, path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a source that its patterns name, ordered by path; `.gz` is unpacked."""
    for name, content in FILES[source.kind](source, path):
        yield name, gzip.decompress(content) if name.endswith(".gz") else content


def wanted(source: Source, name: str) -> bool:
    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return among(source.files) and not among(source.except_files)


def files_of_commit(source: Source, path: Path) -> Iterator[tuple[str, bytes]]:
    tree = run(["git", "-C", path, "ls-tree", "-r", "-z", "--long", source.version])
    files = []
    for line in tree.decode("utf-8", "replace").split("\0")[:-1]:
        (_, kind, blob, size), name = line.split("\t")[0].split(), line.split("\t", 1)[1]
        # A partial clone says `BAD` of what it lacks.
        if kind == "blob" and size.isdigit() and int(size) <= LARGEST and wanted(source, name):
            files.append((name, blob))
    git = ["git", "-C", str(path), "cat-file", "--batch"]
    with subprocess.Popen(git, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for name, blob in sorted(files):
            process.stdin.write(f"{blob}\n".encode())
            process.stdin.flush()
            size = int(process.stdout.readline().split()[2])
            yield name, process.stdout.read(size + 1)[:-1]


def files_of_tar(source: Source, content: io.BufferedIOBase) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=content) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(source, name):
                yield name, archive.extractfile(member).read()


def files_of_debian(source: Source, path: Path) -> Iterator[tuple[str, bytes]]:
    """A package is an `ar` archive; `data.tar` in it holds the files."""
    with path.open("rb") as file:
        file.seek(8)
        while header := file.read(60):
            size = int(header[48:58])
            if header.startswith(b"data.tar"):
                yield from files_of_tar(source, io.BytesIO(file.read(size)))
                return
            file.seek(size + size % 2, io.SEEK_CUR)
    raise FetchError(f"{path} is no Debian package: delete it, so that it is downloaded again")


FILES = {"git": files_of_commit, "debian": files_of_debian}
