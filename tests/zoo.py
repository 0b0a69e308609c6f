"""Small models of every kind that the compiler must carry, with seeded weights. `ZOO[name]()` gives (model, inputs)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from chipfit.frontend.importer import import_model
from chipfit.ir.graph import Graph

Sample = tuple[nn.Module, tuple[Tensor, ...]]

TOKENS, VOCABULARY, WIDTH = 8, 64, 32
IMAGE = (1, 3, 16, 16)


def seeded(build: Callable[[], nn.Module], *inputs: Tensor) -> Sample:
    """The model with reproducible weights and normalisations that are far from the identity."""
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, inputs


def examples(graph: Graph, count: int) -> list[tuple[Tensor]]:
    """Random ones, of batch 1, for a graph with one input."""
    generator = torch.Generator().manual_seed(3)
    (value,) = graph.forward.inputs
    shape = (count, 1, *value.shape[1:])
    if value.type.dtype.is_floating_point:
        rows = torch.randn(shape, generator=generator)
    else:
        rows = torch.randint(0, VOCABULARY, shape, generator=generator)
    return [(row,) for row in rows]


def image(shape: tuple[int, ...] = IMAGE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def tokens(batch: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, TOKENS), generator=torch.Generator().manual_seed(1))


class Causal(nn.Module):
    """Token ids [batch, 8] to logits, the causal mask and the positions given as constants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mask", torch.full((TOKENS, TOKENS), -1e9).triu(1)[None, None], persistent=False)
        self.register_buffer("positions", torch.arange(TOKENS)[None], persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        result = self.network(input_ids, attention_mask=self.mask, position_ids=self.positions, use_cache=False)
        logits: Tensor = result.logits
        return logits


def llama(attention: str = "sdpa", tied: bool = True) -> Sample:
    """Grouped-query attention: 4 query heads on 2 key and value heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        attn_implementation=attention,
    )
    return seeded(lambda: Causal(LlamaForCausalLM(config)), tokens())


def gpt2() -> Sample:
    """Query, key and value packed into one transposed linear layer."""
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=16, attn_implementation="sdpa"
    )
    return seeded(lambda: Causal(GPT2LMHeadModel(config)), tokens())


class Encoder(nn.Module):
    """Token ids and mask [batch, 8] to mean-pooled sentence embeddings [batch, 32]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        bias = (1.0 - attention_mask[:, None, None].float()) * -1e9
        states = self.network(input_ids, attention_mask=bias).last_hidden_state
        weights = attention_mask[..., None].float()
        return (states * weights).sum(1) / weights.sum(1)


def bert() -> Sample:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
    )
    network = lambda: Encoder(BertModel(config, add_pooling_layer=False))  # noqa: E731
    return seeded(network, tokens(), torch.ones(1, TOKENS, dtype=torch.int64))


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """`relu(branch(x) + skip(x))`, written in place as torchvision does."""

    def __init__(self, branch: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip = branch, skip
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        y += self.skip(x)
        out: Tensor = self.relu(y)
        return out


class Classifier(nn.Sequential):
    """A body, global average pooling and a linear head with 10 classes."""

    def __init__(self, width: int, *body: nn.Module) -> None:
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def basic(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> Residual:
    branch = nn.Sequential(
        *conv(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *conv(outputs, outputs, 3, 1, groups)
    )
    same = inputs == outputs and stride == 1
    return Residual(branch, nn.Identity() if same else conv(inputs, outputs, 1, stride))


def resnet() -> Sample:
    """Post-activation blocks: two with an identity skip, one with a projection."""
    return seeded(
        lambda: Classifier(16, conv(3, 8), nn.ReLU(inplace=True), basic(8, 8), basic(8, 16, 2), basic(16, 16)), image()
    )


def resnext() -> Sample:
    """Grouped convolutions: 4 groups."""

    def block(inputs: int, outputs: int) -> Residual:
        narrow, grouped = conv(inputs, 16, 1), conv(16, 16, 3, 1, 4)
        branch = nn.Sequential(*narrow, nn.ReLU(), *grouped, nn.ReLU(), *conv(16, outputs, 1))
        return Residual(branch, nn.Identity() if inputs == outputs else conv(inputs, outputs, 1))

    return seeded(lambda: Classifier(24, conv(3, 8), nn.ReLU(), block(8, 24), block(24, 24)), image())


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (MobileNetV2); with squeeze-excite where asked for (EfficientNet)."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module], squeezed: int = 0) -> None:
        super().__init__()
        hidden = 3 * inputs
        excite = [SqueezeExcite(hidden, squeezed)] if squeezed else []
        depthwise = conv(hidden, hidden, 3, stride, hidden)
        self.branch = nn.Sequential(
            *conv(inputs, hidden, 1), act(), *depthwise, act(), *excite, *conv(hidden, outputs, 1)
        )
        self.identity = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.identity else y


def inverted(act: Callable[[], nn.Module], squeezed: int) -> Sample:
    def build() -> nn.Module:
        shapes = [(8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1)]
        body = [InvertedResidual(*shape, act, squeezed) for shape in shapes]
        return Classifier(24, conv(3, 8, 3, 2), act(), *body, conv(16, 24, 1), act(), nn.Dropout(0.2))

    return seeded(build, image((1, 3, 32, 32)))


def mobilenet() -> Sample:
    return inverted(lambda: nn.ReLU6(inplace=True), 0)


def efficientnet() -> Sample:
    return inverted(lambda: nn.SiLU(inplace=True), 4)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet() -> Sample:
    """Pre-activation layers that concatenate, with a transition between two dense blocks."""

    def build() -> nn.Module:
        first, second = [DenseLayer(8, 4), DenseLayer(12, 4)], [DenseLayer(8, 4), DenseLayer(12, 4)]
        transition = [nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2)]
        return Classifier(16, *conv(3, 8), nn.ReLU(), *first, *transition, *second, nn.BatchNorm2d(16), nn.ReLU())

    return seeded(build, image())


class Shuffle(nn.Module):
    """Half of the channels pass by, the other half go through a branch, then the halves are interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        depthwise = conv(half, half, 3, 1, half)
        self.branch = nn.Sequential(*conv(half, half, 1), nn.ReLU(), *depthwise, *conv(half, half, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(changed)), 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet() -> Sample:
    return seeded(lambda: Classifier(16, conv(3, 16), nn.ReLU(), Shuffle(16), Shuffle(16)), image())


class PackedAttention(nn.Module):
    """Pre-norm self-attention whose query, key and value come from one linear layer, unpacked by split or by select."""

    def __init__(self, by_select: bool) -> None:
        super().__init__()
        self.by_select, self.heads = by_select, 4
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = packed.shape
        if self.by_select:
            return packed.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return tuple(part.view(batch, length, self.heads, -1).transpose(1, 2) for part in packed.split(WIDTH, -1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.unpack(self.qkv(self.norm(x)))
        y = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def packed(by_select: bool) -> Sample:
    """A small vision-transformer trunk on sequences [1, 8, 32]."""

    def build() -> nn.Module:
        layers = [layer for _ in range(2) for layer in (PackedAttention(by_select), FeedForward())]
        return nn.Sequential(*layers, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    return seeded(build, image((1, TOKENS, WIDTH)))


class TwoInputs(nn.Module):
    """An image and a vector, joined; the head reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv(3, 8), nn.Linear(5, 8)
        self.mix, self.head = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, picture: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        seen = F.relu(self.image(picture)).mean((2, 3))
        told = torch.tanh(self.vector(vector))
        joined = F.relu(self.mix(torch.cat([seen, told], -1)))
        return self.head(joined), seen * told


def two_inputs() -> Sample:
    return seeded(TwoInputs, image(), image((1, 5)))


class Recurrent(nn.Module):
    """An LSTM, which stays opaque, between layers that can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.lstm = nn.Linear(WIDTH, 16), nn.LSTM(16, 12, batch_first=True)
        self.up, self.head = nn.Linear(12, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(F.relu(self.before(x)))
        out: Tensor = self.head(F.relu(self.up(states)))
        return out


def lstm() -> Sample:
    return seeded(Recurrent, image((1, TOKENS, WIDTH)))


ZOO: dict[str, Callable[[], Sample]] = {
    "llama": llama,
    "llama-eager": lambda: llama("eager", tied=False),
    "bert": bert,
    "gpt2": gpt2,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "efficientnet": efficientnet,
    "densenet": densenet,
    "shufflenet": shufflenet,
    "resnext": resnext,
    "packed-split": lambda: packed(by_select=False),
    "packed-select": lambda: packed(by_select=True),
    "two-inputs": two_inputs,
    "lstm": lstm,
}


@cache
def imported(name: str) -> Graph:
    """The graph of a zoo model, imported once for all tests."""
    return import_model(*ZOO[name]())


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """A model's result as a tuple of tensors."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def at_batch(inputs: tuple[Tensor, ...], batch: int | None) -> tuple[Tensor, ...]:
    """Other examples of the inputs' shapes at `batch` (as given if None): integers as they are, the rest random."""
    if batch is None:
        return inputs
    generator = torch.Generator().manual_seed(2)
    repeated = [tensor[torch.arange(batch) % len(tensor)] for tensor in inputs]
    return tuple(
        torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor for tensor in repeated
    )
