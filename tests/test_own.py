"""Own tensors, arrays and Datasets as a data set: the same pixels from every form, and one line for each misfit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from images.batches import Batches, ImageData, Shard
from images.own import as_image_data

PIXELS = torch.arange(5 * 3 * 4 * 6).reshape(5, 3, 4, 6).mul(7).remainder(256).to(torch.uint8)  # (N, C, H, W)
CLASSES = [0, 2, 1, 2, 0]


class Items(Dataset):
    """A Dataset of a list."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i]  # a negative or too large index would not end an iteration everywhere


class Stream(IterableDataset):
    """One that has no length."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __iter__(self):
        return iter(self.items)


def arrays() -> list[np.ndarray]:
    """(H, W, C) of each image."""
    return list(PIXELS.permute(0, 2, 3, 1).numpy())


FORMS = {
    "tensor": lambda: PIXELS,
    "float": lambda: PIXELS.float() / 127.5 - 1,
    "double": lambda: PIXELS.double() / 127.5 - 1,
    "channels last": lambda: PIXELS.permute(0, 2, 3, 1).numpy(),
    "channels first": lambda: PIXELS.numpy(),
    "float array": lambda: (PIXELS.float() / 127.5 - 1).numpy(),
    "long doubles": lambda: PIXELS.numpy().astype(np.longdouble) / 127.5 - 1,
    "big-endian": lambda: (PIXELS.double() / 127.5 - 1).numpy().astype(">f8"),
    "dataset": lambda: Items(list(PIXELS)),
    "dataset of floats": lambda: Items(list(PIXELS.float() / 127.5 - 1)),
    "dataset of arrays": lambda: Items(arrays()),
    "dataset of big-endian": lambda: Items([(a / 127.5 - 1).astype(">f4") for a in arrays()]),
    "dataset of long doubles": lambda: Items([a.astype(np.longdouble) / 127.5 - 1 for a in arrays()]),
    "dataset of pictures": lambda: Items([Image.fromarray(a) for a in arrays()]),
    "list of pictures": lambda: [Image.fromarray(a) for a in arrays()],
    "one part": lambda: TensorDataset(PIXELS),
    "stream": lambda: Stream(list(PIXELS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_data(form: str) -> None:
    data = as_image_data(FORMS[form]())
    assert isinstance(data, ImageData) and data.name == "own" and len(data) == 5
    assert data.images.dtype == np.uint8 and data.images.shape == (5, 4, 6, 3)
    assert np.array_equal(data.images, PIXELS.permute(0, 2, 3, 1).numpy())
    assert data.labels is None and data.label_names == () and data.n_labels == 0
    assert (data.img_size, data.img_channels) == ((4, 6), 3)
    assert data.fingerprint == as_image_data(PIXELS).fingerprint
    assert as_image_data(FORMS[form](), CLASSES).fingerprint == as_image_data(PIXELS, CLASSES).fingerprint


def test_grey_images_and_pictures_of_other_modes() -> None:
    grey = as_image_data([Image.fromarray(a[:, :, 0]) for a in arrays()], name="grey")
    assert grey.images.shape == (5, 4, 6, 1) and grey.name == "grey"
    assert np.array_equal(grey.images[:, :, :, 0], PIXELS[:, 0].numpy())
    with_alpha = [Image.fromarray(a).convert("RGBA") for a in arrays()]
    assert as_image_data(with_alpha).fingerprint == as_image_data(PIXELS).fingerprint


@pytest.mark.parametrize("n", [2, 4, 5, 12])
def test_any_number_of_channels(n: int) -> None:
    """From every form, in the order given; of an array the shorter axis is of channels."""
    pixels = torch.randint(0, 256, (3, n, 16, 20), dtype=torch.uint8)
    last = pixels.permute(0, 2, 3, 1)
    for form in (pixels, pixels.numpy(), last.numpy(), Items(list(pixels)), list(last.numpy())):
        assert np.array_equal(as_image_data(form).images, last.numpy())
    assert as_image_data(pixels).img_channels == n


def test_what_comes_out_of_batches_went_in() -> None:
    """Floats at the 256 levels survive; others move by half a level at most."""
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    batches = Batches(as_image_data(x), Shard(4), 0, flip=False, device="cpu")
    back, y = batches.micro(0)
    assert y is None
    order = batches.indices(0, 4).long()
    assert (back - x[order]).abs().max() <= 1 / 255 + 1e-6
    exact = torch.tensor([-1.0, 1.0, 0.0, 1 / 255]).reshape(1, 1, 2, 2)
    assert as_image_data(exact).images.ravel().tolist() == [0, 255, 128, 128]  # 127.5 is rounded to the even


LABELLED = {
    "list": lambda: as_image_data(PIXELS, CLASSES),
    "tensor": lambda: as_image_data(PIXELS, torch.tensor(CLASSES, dtype=torch.int32)),
    "array": lambda: as_image_data(PIXELS, np.array(CLASSES, dtype=np.uint8)),
    "big-endian": lambda: as_image_data(PIXELS, np.array(CLASSES, dtype=">i4")),
    "pairs": lambda: as_image_data(Items(list(zip(PIXELS, CLASSES, strict=True)))),
    "tensors": lambda: as_image_data(TensorDataset(PIXELS, torch.tensor(CLASSES))),
}


@pytest.mark.parametrize("form", LABELLED)
def test_classes(form: str) -> None:
    data = LABELLED[form]()
    assert data.labels.dtype == np.int64 and data.labels.tolist() == CLASSES
    assert data.label_names == ("0", "1", "2") and data.n_labels == 3 and not data.multi_hot
    assert data.fingerprint == as_image_data(PIXELS, CLASSES).fingerprint != as_image_data(PIXELS).fingerprint


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_attributes(kind: torch.dtype) -> None:
    rows = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    data = as_image_data(PIXELS, rows.to(kind))
    assert data.labels.dtype == np.uint8 and data.labels.tolist() == rows.tolist()
    assert data.multi_hot and data.label_names == ("0", "1")
    assert as_image_data(Items(list(zip(PIXELS, rows.to(kind), strict=True)))).fingerprint == data.fingerprint


def out_of_range(value: float) -> Tensor:
    """Floats of which one is `value`."""
    x = torch.linspace(-1, 1, 5 * 16).reshape(5, 1, 4, 4).clone()
    x[3, 0, 1, 1] = value
    return x


MISFITS = {
    "text": (lambda: as_image_data("photos/"), "images of type str: give a tensor"),
    "none": (lambda: as_image_data(None), "images of type NoneType"),
    "loader": (lambda: as_image_data(DataLoader(Items([1]))), "images: a DataLoader has batches: give its Dataset"),
    "empty": (lambda: as_image_data(PIXELS[:0]), r"images of shape \(0, 3, 4, 6\): there are no images"),
    "no items": (lambda: as_image_data(Items([])), "images: there are none"),
    "three axes": (lambda: as_image_data(PIXELS[:, 0]), r"images of shape \(5, 4, 6\): four axes .*\(N, C, H, W\)$"),
    "channels": (lambda: as_image_data(PIXELS.repeat(1, 22, 1, 1)), r"\(5, 66, 4, 6\): up to 64 channels .* 1 or 3"),
    "channels last": (lambda: as_image_data(PIXELS.permute(0, 2, 3, 1)), r"1 or 3 channels .*\(N, C, H, W\)$"),
    "whole numbers": (lambda: as_image_data(PIXELS.long()), "images of type torch.int64: give uint8"),
    "objects": (lambda: as_image_data(np.full((2, 4, 4, 3), None)), "images of type object: give uint8"),
    "above": (lambda: as_image_data(out_of_range(1.01)), r"images: values from -1 to 1.01; .* \[-1, 1\]"),
    "of 255": (lambda: as_image_data(PIXELS.float()), "images: values from 0 to 255"),
    "nan": (lambda: as_image_data(out_of_range(float("nan"))), "images: values from nan to nan"),
    "infinite": (lambda: as_image_data(out_of_range(float("inf"))), "images: values from -1 to inf"),
    "sizes": (lambda: as_image_data([PIXELS[0], PIXELS[1, :, :3]]), r"item 0 is \(3, 4, 6\) .* item 1 is \(3, 3, 6\)"),
    "kinds": (lambda: as_image_data([PIXELS[0], PIXELS[1].float()]), "item 1 is .* of torch.float32: all must be"),
    "modes": (lambda: as_image_data([Image.new("RGB", (4, 4)), Image.new("L", (4, 4))]), "all must be alike"),
    "item of objects": (lambda: as_image_data([np.full((4, 4, 3), None)]), "images: item 0 of type object: give uint8"),
    "item": (lambda: as_image_data(Items([PIXELS[0], "cat.png"])), "images: item 1 is a str: give tensors"),
    "item's shape": (lambda: as_image_data([PIXELS]), r"images: item 0 of shape \(5, 3, 4, 6\): \(1, H, W\)"),
    "three parts": (lambda: as_image_data([(PIXELS[0], 1, 2)]), "item 0 has 3 parts"),
    "some labels": (lambda: as_image_data([PIXELS[0], (PIXELS[1], 1)]), "1 of 2 items have a label: all or none"),
    "too few labels": (lambda: as_image_data(PIXELS, CLASSES[:4]), "labels: there are 4 for 5 images"),
    "twice": (lambda: as_image_data(TensorDataset(PIXELS, PIXELS[:, 0, 0, 0]), CLASSES), "labels of their own"),
    "negative": (lambda: as_image_data(PIXELS, [0, 1, -1, 0, 0]), "labels of shape .* from -1 on: whole numbers"),
    "fractions": (lambda: as_image_data(PIXELS, [0.0, 1.0, 2.0, 0.5, 1.0]), "labels of shape .* of float32"),
    "absurd": (lambda: as_image_data(PIXELS, [0, 1, 2**40, 0, 0]), "labels: a class 1099511627776 among 5 images: .*"),
    "sparse": (lambda: as_image_data(PIXELS, [0, 1, 1000, 0, 0]), "labels: a class 1000 among 5 images: .* below 1000"),
    "unsigned": (lambda: as_image_data(PIXELS, np.array([0, 1, 2**64 - 1, 0, 0], np.uint64)), "labels: a class 1844"),
    "not 0 and 1": (lambda: as_image_data(PIXELS, [[0, 2]] * 5), "labels of shape .*: whole numbers"),
    "names": (lambda: as_image_data(PIXELS, ["cat"] * 5), "labels: whole numbers"),
    "ragged": (lambda: as_image_data(PIXELS, [[0, 1], [0], [1], [1], [1]]), "labels: whole numbers"),
    "of image data": (lambda: as_image_data(as_image_data(PIXELS), CLASSES), "labels: ImageData holds its own"),
    "no rows": (lambda: as_image_data(PIXELS, 3), "labels: whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_one_line_with_the_argument(case: str) -> None:
    call, words = MISFITS[case]
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert str(caught.value).startswith(("images", "labels")) and "\n" not in str(caught.value)


def test_image_data_is_taken_as_it_is() -> None:
    data = as_image_data(PIXELS, CLASSES, name="mine")
    assert as_image_data(data) is data and as_image_data(data, name="other").name == "mine"


def test_a_part_of_many_classes_keeps_their_numbers() -> None:
    assert as_image_data(PIXELS, [999, 3, 3, 0, 7]).n_labels == 1000


def test_images_in_0_to_1_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """What torchvision's ToTensor gives is in range, and would train on pale pictures."""
    as_image_data(PIXELS.float() / 255)
    assert "warning: images have no value below 0" in capsys.readouterr().err
    as_image_data(PIXELS.float() / 127.5 - 1)
    assert capsys.readouterr().err == ""


def test_arrays_that_cannot_be_written_to() -> None:
    """Such as memory maps of files: taken without a warning."""
    array = PIXELS.permute(0, 2, 3, 1).numpy().copy()
    array.flags.writeable = False
    assert as_image_data(array).fingerprint == as_image_data(PIXELS).fingerprint
    assert as_image_data(array[::-1]).images[0].tolist() == array[-1].tolist()


def test_bytes_with_channels_last_are_not_copied() -> None:
    array = PIXELS.permute(0, 2, 3, 1).numpy().copy()
    assert np.shares_memory(as_image_data(array).images, array)
