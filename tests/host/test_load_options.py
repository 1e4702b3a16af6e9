"""Options of `Host.from_pretrained` that cannot be used: one clear line, before anything is read."""

import pytest
import torch

from weft.errors import ConfigError
from weft.host import Host

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    "device",
    [pytest.param("cuda", marks=NO_CUDA), "cuda:99", torch.device("cuda:99"), "bogus", "meta"],
)
def test_a_device_that_is_not_there(tmp_path, device):
    with pytest.raises(ConfigError, match=f"^device {device} cannot be used here: ") as caught:
        Host.from_pretrained(tmp_path, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["bogus", "int8", "nn", "", torch.int8])
def test_a_dtype_that_holds_no_weights(tmp_path, dtype):
    with pytest.raises(ConfigError, match=r"no floating-point type.*use auto, float32"):
        Host.from_pretrained(tmp_path, dtype=dtype)


def test_a_misspelt_dtype_is_offered_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean bfloat16\?"):
        Host.from_pretrained(tmp_path, dtype="blfoat16")
