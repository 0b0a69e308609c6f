"""The pictures that EfficientNet-lite0 is compressed on."""

import pytest
import torch

from chipfit.errors import UserError
from chipfit.examples import debian, efficientnet_lite0, stamps


@pytest.fixture(autouse=True)
def _installed():
    try:
        debian.folder(*stamps.PACKAGE)
    except UserError as error:
        pytest.skip(str(error))


def test_every_picture_is_another_and_an_eighth_is_held_out():
    train, heldout = stamps.examples(32)
    images = train + heldout
    assert (len(images), len(heldout)) == (len(stamps.files()), -(-len(stamps.files()) // stamps.HELD_OUT_EVERY))
    assert all(image.shape == (1, 3, 32, 32) and 0 <= image.min() <= image.max() == 255 for image in images)
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_the_network_sees_many_things_on_them():
    network, _ = efficientnet_lite0.model()
    with torch.no_grad():
        found = torch.cat([network(*example) for example in efficientnet_lite0.data().heldout])
    assert len(found.argmax(1).unique()) > len(found) / 3
    assert found.softmax(1).amax(1).mean() > 0.3
