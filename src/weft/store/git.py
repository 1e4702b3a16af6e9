"""The one place where git is called: a repository, its objects, and the processes that serve them.

Nothing that a repository holds is run: no hooks, no file system monitor, no filters that its attributes
choose, no program that its own configuration names, no `ext::` remotes.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from weft.errors import (
    AdapterFormatError,
    ConfigError,
    MissingFileError,
    SaveError,
    UnknownNameError,
    WeftError,
)
from weft.store.objects import Entry, Objects, install_pack, object_id, parse_tree, write_pack
from weft.store.settings import ALWAYS, read_settings

# What would send git to another repository than the one named.
_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
           "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX")  # fmt: skip
# Below git's own limits: 50 packs (two files each or more), 27 objects in the one folder that it counts.
_FEW_PACKS, _FEW_LOOSE = 90, 20
_AT_ONCE = 256
"""Requests that wait in a pipe: few enough never to fill it."""
_ALWAYS = tuple(part for option in ALWAYS for part in ("-c", option))
_MARK = "--and-then"
"""No option of git's, which then repeats it."""
_LOOSE = 100
"""Fewer new objects than this become files of their own, as git does with what it receives."""


class GitError(WeftError, OSError):
    """Git refused; the message is its own first line."""


class Git:
    """A repository on this machine. Closing it ends the processes that it started."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Find the repository that a folder belongs to. Raises MissingFileError where there is none."""
        self._environment = _environment()
        self._reader: subprocess.Popen[bytes] | None = None
        self._sizer: subprocess.Popen[bytes] | None = None
        self._unread = 0
        self._secured = False
        self.signs = False
        self._tidies = False
        self._at = Path(folder).absolute()
        if not self._at.is_dir():
            raise MissingFileError(f"no folder at {folder}")
        try:
            said = self.run(
                "rev-parse", "--path-format=absolute", "--is-bare-repository", "--show-object-format",
                "--git-dir", _MARK, "--git-path", "objects", _MARK, "--show-cdup",
            ).decode("utf-8", "surrogateescape")  # fmt: skip
        except GitError as error:
            raise MissingFileError(f"{folder} is in no git repository that can be read ({error})") from error
        # A path may have several lines, and a bare repository says nothing about the way up.
        facts, objects, up = said.split(f"{_MARK}\n")
        bare, self.algorithm, place = facts.split("\n", 2)
        self.folder, self._objects = Path(place.removesuffix("\n")), Path(objects.removesuffix("\n"))
        self.bare = bare == "true"
        self.root = self.folder if self.bare else Path(os.path.normpath(self._at / up.removesuffix("\n")))
        self._at = self.root
        self._oid_size = 20 if self.algorithm == "sha1" else 32

    @staticmethod
    def create(folder: Path) -> None:
        """A plain `git init`; harmless where there is a repository already."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ".git").exists():
            _start(["git", "init", "--quiet", "--initial-branch=main"], folder, _environment())

    @staticmethod
    def clone(url: str, folder: Path, filter: bool) -> str:
        """`git clone` without a checkout, with `filter` without contents; what git says. Raises GitError."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = ["clone", "--no-checkout", *(["--filter=blob:none"] if filter else [])]
        _, said = _start(["git", *_ALWAYS, *words, "--", url, str(folder)], folder.parent, _environment())
        return said.decode("utf-8", "replace")

    def run(self, *words: str, stdin: bytes | IO[bytes] = b"", ok: Sequence[int] = (0,)) -> bytes:
        """Run one git command; what it prints. Raises GitError for an exit status that is not `ok`."""
        return _start(["git", *_ALWAYS, *words], self._at, self._environment, stdin, ok)[0]

    def ask(self, *words: str) -> str:
        """Run a command that judges; what it prints and says as an error, whatever its exit status."""
        out, said = _start(["git", *_ALWAYS, *words], self._at, self._environment, ok=range(256))
        return (out + b"\n" + said).decode("utf-8", "replace")

    def secure(self) -> None:
        """Switch off what the configuration would run; needed before files, signatures or remotes are.

        Raises ConfigError where fetching would run a program of the repository's own.
        """
        if self._secured:
            return
        settings = read_settings(self.run("config", "--list", "--show-scope", "-z"), self._environment)
        if settings.remote_program and self.is_partial():
            raise ConfigError(
                f"{self.folder / 'config'} sets {settings.remote_program}, which fetching would run; take "
                f"it out with `git config --unset {settings.remote_program}`"
            )
        self._environment |= settings.environment
        self.signs, self._tidies = settings.signs, settings.tidies
        self._secured = True

    def tidy(self) -> None:
        """As git's own commands do: join packs and loose objects when there are many, in the background.

        Git decides. Without limits of the user's own it is not even asked while there are few.
        """
        self.secure()
        places = ((self._objects / "pack", _FEW_PACKS), (self._objects / "17", _FEW_LOOSE))
        if self._tidies or any(_holds_more(folder, most) for folder, most in places):
            self.ask("gc", "--auto", "--quiet")

    def resolve(self, revision: str) -> str | None:
        """Id of the commit that a revision names, None where it names none."""
        if "\n" in revision or not revision:
            return None
        [(kind, oid, _)] = self._facts([f"{revision}^{{commit}}"])
        return oid if kind == "commit" else None

    def commit_of(self, revision: str) -> str:
        """Id of the commit that a revision names. Raises UnknownNameError."""
        oid = self.resolve(revision)
        if oid is None:
            known = (
                "`git log` lists them"
                if revision != "HEAD"
                else "there is no commit yet, `weft store init` makes one"
            )
            raise UnknownNameError(f"no revision {revision!r:.80} in {self.root}; {known}")
        return oid

    def read(self, oid: str, kind: str, limit: int) -> bytes:
        """One object. Raises AdapterFormatError where it is missing, damaged, or over `limit` bytes."""
        return next(self.read_all([oid], kind, limit))

    def read_all(self, oids: Sequence[str], kind: str, limit: int) -> Iterator[bytes]:
        """Objects in order, each checked against its id. Raises AdapterFormatError as `read` does."""
        if self._unread:  # whoever asked last has stopped in the middle
            self._end_readers()
        process = self._reader = self._reader or self._serve("--batch")
        for first in range(0, len(oids), _AT_ONCE):
            some = oids[first : first + _AT_ONCE]
            self._unread = len(some)
            _send(process, some)
            for oid in some:
                found, _, size = _answer(process, oid)
                if found != kind:
                    self._end_readers()
                    raise AdapterFormatError(f"object {oid} is {found or 'missing'}, expected a {kind}")
                if size > limit:
                    self._end_readers()
                    raise AdapterFormatError(f"object {oid} has {size} bytes, at most {limit} are read")
                assert process.stdout is not None
                data = process.stdout.read(size)
                process.stdout.read(1)
                if object_id(kind, data, self.algorithm) != oid:
                    self._end_readers()
                    raise AdapterFormatError(f"object {oid} is damaged: its content has another hash")
                self._unread -= 1
                yield data

    def sizes(self, oids: Sequence[str]) -> list[int]:
        """Bytes of each object, without reading it. Raises AdapterFormatError where one is missing."""
        found = dict(zip(oids, self._facts(oids), strict=True))
        for oid, (kind, _, _) in found.items():
            if not kind:
                raise AdapterFormatError(f"object {oid} is missing or damaged; `git fsck` says more")
        return [found[oid][2] for oid in oids]

    def existing(self, oids: Sequence[str]) -> set[str]:
        """Which of these are in the repository; none in a partial clone, where asking would fetch them."""
        if self.is_partial():
            return set()
        return {oid for oid, (kind, _, _) in zip(oids, self._facts(oids), strict=True) if kind}

    def tree(self, oid: str, source: object, limit: int = 64 << 20) -> dict[str, Entry]:
        """The entries of a tree."""
        return self.parse(self.read(oid, "tree", limit), source)

    def parse(self, data: bytes, source: object) -> dict[str, Entry]:
        """The entries of a tree's bytes."""
        return parse_tree(data, self._oid_size, source)

    def tree_of(self, commit: str) -> str:
        """Id of the root tree of a commit. Raises AdapterFormatError."""
        [(kind, oid, _)] = self._facts([f"{commit}^{{tree}}"])
        if kind != "tree":
            raise AdapterFormatError(f"commit {commit} has no tree that can be read")
        return oid

    def is_partial(self) -> bool:
        """Whether objects may lie in a remote repository alone."""
        with suppress(OSError):
            return any(path.name.endswith(".promisor") for path in (self._objects / "pack").iterdir())
        return False

    def missing(self, *revisions: str) -> list[str]:
        """Ids of objects below these that a partial clone has not fetched."""
        if not self.is_partial():
            return []
        lines = self.run("rev-list", "--objects", "--missing=print", *revisions, "--").decode().split("\n")
        return [line[1:] for line in lines if line.startswith("?")]

    def fetch(self, oids: Sequence[str]) -> None:
        """Get missing objects of a partial clone at once. Raises AdapterFormatError without a remote."""
        if not oids:
            return
        self.secure()
        remotes = (
            self.run("config", "--get-regexp", r"^remote\..*\.promisor$", ok=(0, 1)).decode().split("\n")
        )
        names = [
            line.split(" ")[0][len("remote.") : -len(".promisor")]
            for line in remotes
            if line.endswith(" true")
        ]
        if not names:
            raise AdapterFormatError(f"{len(oids)} objects are missing, and no remote promises them")
        self.run(
            "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
            "--recurse-submodules=no", "--filter=blob:none", "--stdin", "--", names[0],
            stdin="\n".join(oids).encode() + b"\n",
        )  # fmt: skip
        self._end_readers()

    def keep(self, objects: Objects) -> None:
        """Write new objects; they belong to nothing until a commit does. Raises SaveError."""
        try:
            if len(objects.content) >= _LOOSE:
                install_pack(objects, self._objects / "pack")
            elif objects.content:
                with tempfile.TemporaryFile(dir=self.folder) as file:
                    write_pack(objects, file)
                    file.seek(0)
                    self.run("unpack-objects", "-q", stdin=file)
        except GitError:
            raise
        except OSError as error:
            raise SaveError(
                f"could not write to {self._objects}: {error.strerror or error}; the store is as it was"
            ) from error

    def close(self) -> None:
        """End the processes that read."""
        self._end_readers()

    def __enter__(self) -> "Git":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _facts(self, names: Sequence[str]) -> list[tuple[str, str, int]]:
        """Kind, id and size of each of some objects, none of which is read."""
        process = self._sizer = self._sizer or self._serve("--batch-check")
        facts = []
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            _send(process, some)
            facts += [_answer(process, name) for name in some]
        return facts

    def _serve(self, mode: str) -> subprocess.Popen[bytes]:
        if self.is_partial():
            self.secure()  # what is missing is fetched
        return subprocess.Popen(
            ["git", *_ALWAYS, "cat-file", mode],
            cwd=self._at,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _end_readers(self) -> None:
        for process in (self._reader, self._sizer):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    assert pipe is not None
                    # A request that was never sent.
                    with suppress(OSError):
                        pipe.close()
        self._reader = self._sizer = None
        self._unread = 0


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _PLACES}
    return kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


def _holds_more(folder: Path, most: int) -> bool:
    with suppress(FileNotFoundError):
        return len(os.listdir(folder)) > most
    return False


def _send(process: subprocess.Popen[bytes], names: Sequence[str]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # told by the answer that does not come
        process.stdin.write("".join(name + "\n" for name in names).encode("utf-8", "surrogateescape"))
        process.stdin.flush()


def _answer(process: subprocess.Popen[bytes], name: str) -> tuple[str, str, int]:
    """Kind, id and size of what was asked for; kind is empty where there is no such object."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AdapterFormatError(f"git could not read {name}; `git fsck` says more")
    words = line.decode("utf-8", "surrogateescape").rstrip("\n").rsplit(" ", 2)
    if len(words) == 3 and words[2].isdigit():
        return words[1], words[0], int(words[2])
    return "", "", 0


def _start(
    words: list[str],
    folder: Path,
    environment: dict[str, str],
    stdin: bytes | IO[bytes] = b"",
    ok: Sequence[int] = (0,),
) -> tuple[bytes, bytes]:
    try:
        if isinstance(stdin, bytes):
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, input=stdin)
        else:
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, stdin=stdin)
    except FileNotFoundError as error:
        if not folder.is_dir():  # said in the same way: a core.worktree that is gone, say
            raise MissingFileError(f"no folder {folder}, where git should work") from error
        raise MissingFileError("git is not installed; the store keeps its versions with it") from error
    if done.returncode not in ok:
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        if any("tell me who you are" in line or "ident name" in line for line in said):
            raise ConfigError("git does not know who you are; set user.name and user.email with `git config`")
        # Hints come before and after the line that counts.
        line = next((line for line in said if line.startswith(("fatal: ", "error: "))), "")
        reason = line.partition(": ")[2] or " ".join(said) or f"exit status {done.returncode}"
        raise GitError(f"git {_verb(words)}: {reason}")
    return done.stdout, done.stderr


def _verb(words: Sequence[str]) -> str:
    """The git command in a line of words, behind `-c key=value`."""
    rest = iter(words[1:])
    for word in rest:
        if word != "-c":
            return word
        next(rest)
    return ""
