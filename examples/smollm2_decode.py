"""One decoding step of SmolLM2-135M: a token in, logits and the next key-value cache of 128 positions out."""

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from chipfit.examples import smollm2

LENGTH = smollm2.LENGTH  # positions in the cache
MASKED = smollm2.MASKED


class FunctionalCache:
    """What transformers asks of a cache, with no state that changes: `tensors` are replaced, not written to.

    `here` is true at the position to write, [1, 1, positions, 1].
    """

    is_compileable = False

    def __init__(self, tensors: tuple[Tensor, ...], here: Tensor) -> None:
        self.tensors, self.here = list(tensors), here

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """The layer's keys and values with these at the position, as attention reads them."""
        for index, fresh in enumerate((key, value), 2 * layer):
            self.tensors[index] = torch.where(self.here, fresh, self.tensors[index])
        return self.tensors[2 * layer], self.tensors[2 * layer + 1]

    def get_seq_length(self, *_: object) -> int:
        return 0


class Decode(nn.Module):
    """Token id [1, 1], position [1] and keys and values [1, heads, 128, width] of each layer in turn, to logits
    [1, 1, vocabulary] and the same keys and values with the token's own at its position.
    """

    places: Tensor

    def __init__(self, network: LlamaForCausalLM) -> None:
        super().__init__()
        self.model, self.lm_head = network.model, network.lm_head
        self.register_buffer("places", torch.arange(LENGTH), persistent=False)

    def forward(self, token: Tensor, position: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        kept = FunctionalCache(cache, (self.places == position)[None, None, :, None])
        mask = torch.where(self.places <= position, 0.0, MASKED)[None, None, None]
        states = self.model(
            token, attention_mask=mask, position_ids=position[None], past_key_values=kept, use_cache=True
        )
        return (self.lm_head(states.last_hidden_state), *kept.tensors)


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network, a token, its position and an empty cache; without `weights` on the meta device, in a second."""
    network = smollm2.network(weights)
    device, settings = network.device, network.config
    heads, width = settings.num_attention_heads, settings.hidden_size // settings.num_attention_heads
    shape = (1, settings.num_key_value_heads or heads, LENGTH, width)
    cache = [torch.zeros(shape, device=device) for _ in range(2 * settings.num_hidden_layers)]
    token, position = torch.ones(1, 1, dtype=torch.int64, device=device), torch.tensor([64], device=device)
    return Decode(network).to(device).eval(), (token, position, *cache)
