"""Where a recipe's tasks come from: made worlds, Natural Instructions, or a user's own folders."""

import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from weft.config import Config
from weft.errors import ConfigError, UnknownNameError
from weft.files import nearest
from weft.reading import read_lines
from weft.tasks.facts.documents import TEMPLATE, VOCABULARY, document_task
from weft.tasks.facts.sheets import Split, sheet_task
from weft.tasks.file import load_file_task
from weft.tasks.folder import load_tasks
from weft.tasks.functions.inputs import SHAPES
from weft.tasks.functions.streams import line_task
from weft.tasks.functions.world import World as FunctionsWorld
from weft.tasks.letters.recalls import document_task as words_task
from weft.tasks.letters.tokenizer import build_tokenizer
from weft.tasks.letters.world import World
from weft.tasks.natural_instructions import load_natural_instructions
from weft.tasks.pictures import picture_splits
from weft.tasks.task import Task

_BPE_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ m['content'] + '\nAnswer:' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}"
)


class _TextSource(Config):
    """A source whose base can also read plain texts, with a tokenizer of its own."""

    kind: Any
    texts: tuple[str, ...] = ()
    """Plain text files (.txt or .txt.gz) for the base."""
    vocab_size: int = Field(default=4096, gt=256, le=1 << 20)
    """Of the tokenizer of a base that is trained on it."""


class LettersSource(Config):
    """The letters world; splits train, validation, unseen_compositions, unseen_parameters."""

    kind: Literal["letters"]
    seed: int = 0
    """Of the tasks and their rows."""
    train_tasks: int = Field(default=1000, gt=0, le=100_000)
    """Tasks to train on."""
    validation_tasks: int = Field(default=64, ge=0, le=100_000)
    """Compositions that follow the training tasks in the world's order."""
    train_rows: int = Field(default=64, gt=0, le=100_000)
    """Train rows of each."""
    test_rows: int = Field(default=24, gt=0, le=100_000)
    """Test rows of each."""
    more_wordings: int = Field(default=0, ge=0, le=10_000)
    """Descriptions per training task beside the 16 of every recipe, with more phrases per operation."""
    mannered: int = Field(default=0, ge=0, le=10_000)
    """Further descriptions per task, in many people's manners: polite, curt, with other words."""


class FunctionsSource(_TextSource):
    """The functions world; splits train, validation, unseen_kinds, unseen_parameters, unseen_compositions."""

    kind: Literal["functions"]
    seed: int = 0
    """Of the functions and their rows."""
    train_tasks: int = Field(default=1500, gt=0)
    """Functions to train on."""
    validation_tasks: int = Field(default=64, ge=0)
    """Compositions that follow the training functions in the world's order."""
    train_rows: int = Field(default=40, gt=0)
    """Train rows of each."""
    test_rows: int = Field(default=12, gt=0)
    """Test rows of each."""
    wordings: int = Field(default=16, gt=0)
    """Descriptions per training function; a quarter as many again are kept unseen."""
    mannered: int = Field(default=0, ge=0, le=10_000)
    """Further descriptions per function, in many people's manners: polite, curt, with other words."""
    more_rows: int = Field(default=0, ge=0, le=100_000)
    """Further train rows of each, as many as its inputs allow; they change nothing else."""
    reads: tuple[str, ...] = ()
    """Of all these functions only those that read these shapes of input (date, name, record, ...), in every
    split; all unless given."""


class LinesSource(_TextSource):
    """Functions as lines of a stream, `1: input > answer`, for a shift to blend; one split, train."""

    kind: Literal["lines"]
    functions: tuple[str, ...] = Field(min_length=1)
    """Functions of the functions world, each a task."""
    seed: int = 0
    """Of the lines."""
    train_rows: int = Field(default=200, gt=0, le=100_000)
    """Train rows of each."""
    test_rows: int = Field(default=32, gt=0, le=100_000)
    """Test rows of each, with inputs that no training line and no training stream has."""


class NaturalInstructionsSource(_TextSource):
    """Natural Instructions from a folder of the user; splits train, dev, heldout where present."""

    kind: Literal["natural_instructions"]
    path: str
    """The folder with `tasks` and `splits`."""
    descriptions: str | None = None
    """File of further descriptions per task."""
    core: bool = False
    """Only tasks that a small model can learn."""
    min_descriptions: int = Field(default=1, gt=0)
    """Leave out training tasks with fewer wordings, seen and unseen together."""
    max_description_words: int = Field(default=200, gt=0)
    """Leave out tasks with a longer one."""
    max_tasks: int | None = None
    """Tasks of each split, at most; all unless given."""
    max_test_rows: int | None = None
    """Test rows of a task, at most; all unless given."""


class FolderSource(_TextSource):
    """A folder of task folders (`task.yaml`, `train.jsonl`, `test.jsonl`); one split, train."""

    kind: Literal["folder"]
    path: str
    """Folder of task folders."""


class FileSource(_TextSource):
    """One file of rows as one task: JSON Lines, JSON, CSV, TSV, or Parquet with the extra `data`.

    Columns are those that `weft.tasks.rows` knows. Without `test`, every tenth row is kept for it.
    """

    kind: Literal["file"]
    path: str
    """The file, or the id of a data set of the Hub."""
    test: str | None = None
    """Another file, with the rows to measure on."""
    test_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Without `test`, the share of rows that is kept to measure on; 0 for none."""
    name: str | None = None
    """Of the task, and so of its adapter; the file's own unless given."""
    descriptions: tuple[str, ...] = ()
    """Wordings of what to do; the name unless given."""


class FactsSource(Config):
    """Documents of invented facts as tasks; splits train, validation; categories `pairs-N-links-M`."""

    kind: Literal["facts"]
    seed: int = 0
    """Of the documents and their questions."""
    pairs: tuple[int, ...] = (1, 2, 4, 8)
    """Facts per document; as many documents of each."""
    links: tuple[int, ...] = ()
    """For each of `pairs`, how many names know one of those; none unless given."""
    documents: int = Field(default=4000, gt=0)
    """Training documents of each size."""
    validation_documents: int = Field(default=64, gt=0)
    """Of each size."""
    said: int = Field(default=0, ge=0)
    """Questions per document that ask for a word itself; a base needs some, to tell names apart."""
    tokens: int = Field(default=64, ge=0)
    """Length that idle sentences fill a document up to; every second one has a random part of it."""


class SheetsSource(_TextSource):
    """Fact sheets in plain English for a base that knows it; splits train, validation.

    Categories `facts-N`, `facts-N-alike`.

    A name of the validation is never in training, nor a value with its kind.
    """

    kind: Literal["sheets"]
    seed: int = 0
    """Of the sheets."""
    facts: tuple[int, ...] = (1, 2)
    """Facts per sheet, each about somebody of its own; as many sheets of each."""
    alike: tuple[int, ...] = ()
    """Facts per sheet whose facts are all of one kind, so that only the names tell; as many of each."""
    documents: int = Field(default=8000, gt=0, le=1_000_000)
    """Training sheets of each size."""
    validation_documents: int = Field(default=64, gt=0, le=100_000)
    """Of each size."""


class WordsSource(Config):
    """Words behind names; splits train, validation; categories `words-N`, `words-N-idle`, `words-N-after`."""

    kind: Literal["words"]
    seed: int = 0
    """Of what it draws."""
    words: tuple[int, ...] = (1, 2)
    """Words per document; as many documents of each."""
    idle: int = Field(default=0, ge=0, le=1000)
    """As many documents again have lines beside them that say nothing: 1 up to so many; none for 0."""
    after: int = Field(default=0, ge=0, le=1000)
    """As many documents again end in so many lines that say nothing; none for 0."""
    documents: int = Field(default=4000, gt=0)
    """Training documents of each size."""
    validation_documents: int = Field(default=32, gt=0)
    """Of each size."""


class PicturesSource(Config):
    """Digits and drawn shapes to be named; splits train, validation, digits, shapes, unseen_pairs."""

    kind: Literal["pictures"]
    seed: int = 0
    """Of the drawings, and of the colour that each shape never has in training."""
    shapes: int = Field(default=40, gt=0, le=10_000)
    """Training pictures of each shape in each colour."""


Source = (
    LettersSource
    | FunctionsSource
    | LinesSource
    | NaturalInstructionsSource
    | FolderSource
    | FileSource
    | FactsSource
    | SheetsSource
    | WordsSource
    | PicturesSource
)


def _named(value: Any) -> Any:
    """A bare path: a folder of task folders, or a file of rows."""
    if not isinstance(value, str):
        return value
    return {"kind": "folder" if os.path.isdir(value) else "file", "path": value}


Data = Annotated[Source, Field(discriminator="kind"), BeforeValidator(_named)]
"""The data of a recipe: a section with its kind, or just a path."""


def load_split(source: Source, name: str, first: int | None = None) -> tuple[Task, ...]:
    """One split of a source, or its first so many tasks.

    Raises UnknownNameError where it has none of that name, ConfigError where the split has fewer tasks.
    """
    splits = load_splits(source)
    if name not in splits:
        raise UnknownNameError(f"no split {name!r}{nearest(name, splits)}; there are {', '.join(splits)}")
    if first is not None and not 1 <= first <= len(splits[name]):
        raise ConfigError(f"tasks is {first}, the split {name} has {len(splits[name])}")
    return splits[name][:first]


def load_splits(source: Source, *needed: str) -> dict[str, tuple[Task, ...]]:
    """Every split of a source by name; `train` is always there, and is the only one to train on.

    Raises MissingFileError for files that are not there, ConfigError for damaged ones or a split that is
    `needed` and not there.
    """
    splits = _load_splits(source)
    for name in needed:
        if name not in splits:
            raise ConfigError(f"no split {name!r}{nearest(name, splits)}; there are {', '.join(splits)}")
    return splits


def _load_splits(source: Source) -> dict[str, tuple[Task, ...]]:
    if isinstance(source, LettersSource):
        world = World(
            seed=source.seed,
            train_rows=source.train_rows,
            test_rows=source.test_rows,
            more_wordings=source.more_wordings,
            mannered=source.mannered,
        )
        tasks = world.train(source.train_tasks + source.validation_tasks)
        return {
            "train": tuple(tasks[: source.train_tasks]),
            "validation": tuple(tasks[source.train_tasks :]),
            "unseen_compositions": tuple(world.unseen_compositions()),
            "unseen_parameters": tuple(world.unseen_parameters()),
        }
    if isinstance(source, FileSource):
        options = source.model_dump(include={"path", "test", "test_ratio", "name", "descriptions"})
        return {"train": (load_file_task(**options),)}
    if isinstance(source, FunctionsSource):
        return _functions(source)
    if isinstance(source, LinesSource):
        sizes = {"seed": source.seed, "train_rows": source.train_rows, "test_rows": source.test_rows}
        return {"train": tuple(line_task(name, **sizes) for name in source.functions)}
    if isinstance(source, PicturesSource):
        return picture_splits(seed=source.seed, shapes=source.shapes)
    if isinstance(source, FactsSource):
        return {
            "train": _documents(source, "train", source.documents),
            "validation": _documents(source, "validation", source.validation_documents),
        }
    if isinstance(source, SheetsSource):
        return {
            "train": _sheets(source, "train", source.documents),
            "validation": _sheets(source, "validation", source.validation_documents),
        }
    if isinstance(source, WordsSource):
        return {
            "train": _words_documents(source, "train", source.documents),
            "validation": _words_documents(source, "validation", source.validation_documents),
        }
    if isinstance(source, FolderSource):
        return {"train": load_tasks(source.path)}
    splits = {}
    for split in ("train", "dev", "heldout"):
        if split == "train" or (Path(source.path) / f"{split}.jsonl.gz").is_file():
            tasks = load_natural_instructions(
                source.path,
                split=split,
                core=source.core,
                limit=source.max_tasks,
                descriptions=source.descriptions,
                max_test_rows=source.max_test_rows,
            )
            few = source.min_descriptions if split == "train" else 1
            splits[split] = tuple(
                task
                for task in tasks
                if len(task.descriptions + task.unseen_descriptions) >= few
                and max(len(text.split()) for text in task.descriptions) <= source.max_description_words
            )
    return splits


def _functions(source: FunctionsSource) -> dict[str, tuple[Task, ...]]:
    world = FunctionsWorld(
        seed=source.seed,
        train_rows=source.train_rows,
        test_rows=source.test_rows,
        wordings=source.wordings,
        mannered=source.mannered,
        more_rows=source.more_rows,
    )
    tasks = world.train(source.train_tasks + source.validation_tasks)
    splits = {
        "train": tasks[: source.train_tasks],
        "validation": tasks[source.train_tasks :],
        "unseen_kinds": world.unseen_kinds(),
        "unseen_parameters": world.unseen_parameters(),
        "unseen_compositions": world.unseen_compositions(),
    }
    for shape in source.reads:
        if shape not in SHAPES:
            raise UnknownNameError(f"no shape of input {shape!r}{nearest(shape, SHAPES)}")
    wanted = source.reads or tuple(SHAPES)
    return {
        split: tuple(task for task in tasks if world.shape(task.name) in wanted)
        for split, tasks in splits.items()
    }


def _words_documents(source: WordsSource, split: str, count: int) -> tuple[Task, ...]:
    tasks = []
    for words in source.words:
        for number in range(count):
            key = f"{source.seed}/{split}/{words}/{number}"
            tasks.append(words_task(key, words=words))
            if source.idle:
                idle = 1 + int(random.Random(key).random() * source.idle)
                tasks.append(words_task(f"{key}/idle", words=words, idle=idle))
            if source.after:
                tasks.append(words_task(f"{key}/after", words=words, after=source.after))
    return tuple(tasks)


def _sheets(source: SheetsSource, split: Split, count: int) -> tuple[Task, ...]:
    return tuple(
        sheet_task(f"{source.seed}/{facts}/{number}", facts=facts, split=split, alike=alike)
        for alike, sizes in ((False, source.facts), (True, source.alike))
        for facts in sizes
        for number in range(count)
    )


def _documents(source: FactsSource, split: str, count: int) -> tuple[Task, ...]:
    links = source.links or (0,) * len(source.pairs)
    if len(links) != len(source.pairs):
        raise ConfigError(
            f"links has {len(links)} numbers, one for each of {len(source.pairs)} pairs is read"
        )
    tasks = []
    for pairs, linked in zip(source.pairs, links, strict=True):
        for number in range(count):
            key = f"{source.seed}/{split}/{pairs}/{linked}/{number}"
            tokens = source.tokens if number % 2 else int(random.Random(key).random() * source.tokens)
            tasks.append(document_task(key, pairs=pairs, links=linked, tokens=tokens, said=source.said))
    return tuple(tasks)


def load_texts(source: Source) -> Iterator[str]:
    """The plain texts of a source, one document after another. Raises MissingFileError."""
    for name in source.texts if isinstance(source, _TextSource) else ():
        yield from (line.strip() for _, line in read_lines(name))


def build_source_tokenizer(source: Source, tasks: Sequence[Task]) -> PreTrainedTokenizerBase:
    """The tokenizer for a base trained on a source: words and letters, or byte-level BPE of its own texts."""
    if isinstance(source, LettersSource | WordsSource | PicturesSource):
        return build_tokenizer(text for task in tasks for text in task.descriptions)
    if isinstance(source, FactsSource):
        return build_tokenizer([VOCABULARY], template=TEMPLATE)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=source.vocab_size,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_short_words(_everything(source, tasks)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        chat_template=_BPE_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _short_words(texts: Iterable[str]) -> Iterator[str]:
    """Words over 1000 characters cut up: counting the pairs of one that has millions never ends."""
    return (re.sub(r"\S{1000}", r"\g<0> ", text) for text in texts)


def _everything(source: Source, tasks: Sequence[Task]) -> Iterator[str]:
    for task in tasks:
        yield from task.descriptions
        for row in task.train:
            yield row.prompt
            yield " " + row.completion
    yield from load_texts(source)
