"""Pictures as tasks: digits and drawn shapes."""

import dataclasses
from pathlib import Path

import pytest
import torch

from weft.errors import SaveError
from weft.tasks import Task, hash_tasks, save_task
from weft.tasks.pictures import COLOURS, SHAPES, SIZE, draw_shape, picture_splits, unseen_pairs
from weft.tasks.source import PicturesSource, build_source_tokenizer, load_splits, load_texts
from weft.tasks.task import image_hash
from weft.types import Description, Image


@pytest.fixture(scope="module")
def splits() -> dict[str, tuple[Task, ...]]:
    return load_splits(PicturesSource(kind="pictures", shapes=2))


def pairs(tasks: tuple[Task, ...]) -> set[tuple[str, str]]:
    shapes = [task for task in tasks if task.category == "shapes"]
    return {(task.test[1].completion, task.test[0].completion) for task in shapes}


def test_what_is_held_out_is_in_no_training(splits: dict[str, tuple[Task, ...]]) -> None:
    unseen = set(unseen_pairs(0))
    assert len({shape for shape, _ in unseen}) == len({colour for _, colour in unseen}) == len(SHAPES) == 6
    assert pairs(splits["unseen_pairs"]) == unseen
    everything = {(shape, colour) for shape in SHAPES for colour in COLOURS}
    for name in ("train", "validation", "shapes"):
        assert pairs(splits[name]) == everything - unseen
    pictures = [image_hash(task.image) for tasks in splits.values() for task in tasks if task.image]
    names = [task.name for tasks in splits.values() for task in tasks]
    assert len(pictures) == len(names) == len(set(names))
    assert len(set(pictures)) > len(pictures) - 3  # a few digits of the data set are the same to the pixel


def test_digits_are_of_other_hands(splits: dict[str, tuple[Task, ...]]) -> None:
    numbers = {
        name: [int(task.name.split("-")[2]) for task in tasks if task.category == "digits"]
        for name, tasks in splits.items()
    }
    assert {name: len(found) for name, found in numbers.items()} == {
        "train": 1347,
        "validation": 90,
        "digits": 360,
        "shapes": 0,
        "unseen_pairs": 0,
    }
    assert min(numbers["digits"]) > max(numbers["train"] + numbers["validation"])
    first = splits["digits"][0]
    assert first.image is not None
    assert first.image.pixels_HWC.shape == (8, 8, 3)
    assert {task.test[0].completion for task in splits["digits"]} == set("0123456789")


def test_a_shape_has_its_colour_where_it_is_and_light_ground_elsewhere() -> None:
    for shape in SHAPES:
        for colour, paint in COLOURS.items():
            pixels = draw_shape(shape, colour, "0").pixels_HWC.float()
            assert pixels.shape == (SIZE, SIZE, 3)
            painted = (pixels - torch.tensor(paint)).abs().amax(-1) < 60
            assert 0.05 < painted.float().mean() < 0.6, (shape, colour)
            assert pixels[~painted].median() > 200


def test_the_same_key_is_the_same_picture() -> None:
    one, same, other = (draw_shape("star", "red", key) for key in ("a", "a", "b"))
    assert torch.equal(one.pixels_HWC, same.pixels_HWC)
    assert image_hash(one) == image_hash(same) != image_hash(other)
    again = picture_splits(seed=1, shapes=1)
    assert hash_tasks(again["train"]) == hash_tasks(picture_splits(seed=1, shapes=1)["train"])
    assert unseen_pairs(1) != unseen_pairs(0)


def test_a_picture_is_the_cue_and_counts_in_the_hash(splits: dict[str, tuple[Task, ...]]) -> None:
    task = splits["digits"][0]
    assert task.cue("name the digit") is task.image
    nothing = task.meaningless("abc")
    assert isinstance(nothing, Image)
    assert isinstance(task.image, Image)
    assert nothing.pixels_HWC.shape == task.image.pixels_HWC.shape
    again = task.meaningless("abc")
    assert isinstance(again, Image)
    assert image_hash(nothing) == image_hash(again) != image_hash(task.image)
    bare = dataclasses.replace(task, image=None)
    assert bare.cue("name it") == bare.meaningless("name it") == Description("name it")
    assert len({bare.data_hash, task.data_hash, dataclasses.replace(task, image=nothing).data_hash}) == 3


def test_a_folder_does_not_hold_a_picture(splits: dict[str, tuple[Task, ...]], tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="has a picture"):
        save_task(splits["digits"][0], tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_a_base_could_be_trained_on_them(splits: dict[str, tuple[Task, ...]]) -> None:
    source = PicturesSource(kind="pictures")
    assert list(load_texts(source)) == []
    ids = build_source_tokenizer(source, splits["train"])("red")["input_ids"]
    assert len(ids) == 3
