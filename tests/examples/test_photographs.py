"""The photographs that EfficientNet-lite0 is compressed on."""

import torch

from chipfit.examples import efficientnet_lite0, photographs


def test_what_is_judged_on_shares_no_photograph_with_what_is_trained_on():
    train, heldout = photographs.examples(32)
    assert (len(train), len(heldout)) == (15 * photographs.CUTS, 5 * photographs.CUTS)
    assert all(cut.shape == (1, 3, 32, 32) and 0 <= cut.min() < cut.max() <= 255 for cut in train + heldout)
    assert len({cut.numpy().tobytes() for cut in train + heldout}) == len(train + heldout)


def test_the_network_knows_what_is_on_them():
    labels = [int(file.stem.rpartition("_")[2]) for file in photographs.files()[:: photographs.HELD_OUT_EVERY]]
    network, _ = efficientnet_lite0.model()
    heldout = efficientnet_lite0.data().heldout
    with torch.no_grad():
        found = torch.cat([network(*example) for example in heldout]).argmax(1)
    expected = torch.tensor(labels).repeat(photographs.CUTS)
    assert (found == expected).float().mean() > 0.9
