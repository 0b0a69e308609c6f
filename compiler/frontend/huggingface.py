"""Hugging Face checkpoints as plain tensor-to-tensor modules: no caches, no boolean masks, original parameter names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from chipfit.errors import UserError

LENGTH = 128  # tokens
MASKED = -1e9  # finite: an infinite mask turns into NaN where it meets a zero
PIXELS = 224  # where a vision model's config names no size


class Wrapper(nn.Module):
    """Holds a network's parts under their own names; the network itself is called, but is no child."""

    network: PreTrainedModel

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self.__dict__["network"] = network


class Decoder(Wrapper):
    """Token ids [batch, 128] to logits [batch, 128, vocabulary]; each token sees those before it."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__(network)
        mask = torch.full((LENGTH, LENGTH), MASKED, device="cpu").triu(1)
        self.register_buffer("mask", mask[None, None], persistent=False)
        self.register_buffer("positions", torch.arange(LENGTH)[None], persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return first(self.network(input_ids, attention_mask=self.mask, position_ids=self.positions, use_cache=False))


class Encoder(Wrapper):
    """Token ids and mask, int64 [batch, 128], to logits, or to states [batch, 128, hidden] where there is no head."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        additive = (1.0 - attention_mask[:, None, None, :].float()) * MASKED
        return first(self.network(input_ids, attention_mask=additive))


class Vision(Wrapper):
    """Images [batch, channels, height, width] to logits, or to the last hidden states where there is no head."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return first(self.network(pixel_values))


def first(outputs: Any) -> Tensor:
    tensor = outputs.to_tuple()[0]
    assert isinstance(tensor, Tensor)
    return tensor


def from_folder(folder: Path, weights: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The checkpoint in `folder` (config.json and safetensors) and example inputs; no code in the folder is run."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no Hugging Face checkpoint: it has no config.json.")
    config = _read(folder, AutoConfig.from_pretrained, folder)
    cls = getattr(transformers, (config.architectures or [""])[0], None)
    if cls is None:
        version = transformers.__version__
        raise UserError(f"{folder}/config.json names no architecture that transformers {version} knows.")
    if not weights:
        return wrapped(_on_meta(cls, config))
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no .safetensors file: convert the weights, since pickled ones are never read.")
    return wrapped(_read(folder, cls.from_pretrained, folder, dtype=torch.float32, use_safetensors=True))


def from_gguf(file: Path, weights: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The language model in a GGUF file, dequantised to float32, and example inputs."""
    config = _read(file, AutoConfig.from_pretrained, file.parent, gguf_file=file.name)
    if not weights:
        with torch.device("meta"):
            return wrapped(AutoModelForCausalLM.from_config(config))
    load = AutoModelForCausalLM.from_pretrained
    return wrapped(_read(file, load, file.parent, gguf_file=file.name, dtype=torch.float32))


def wrapped(network: PreTrainedModel) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network behind tensors alone, on its own device, and example inputs there."""
    config, device = network.config, network.device
    ids = torch.zeros(1, LENGTH, dtype=torch.int64, device=device)
    if network.main_input_name == "pixel_values":
        size = getattr(config, "image_size", PIXELS)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        return Vision(network).eval(), (torch.zeros(1, getattr(config, "num_channels", 3), *sides, device=device),)
    if network.main_input_name != "input_ids":
        raise UserError(f"Models that read {network.main_input_name} are unknown: give FILE.py:FUNCTION instead.")
    if type(network).__name__.endswith("ForCausalLM"):
        return Decoder(network).to(device).eval(), (ids,)
    return Encoder(network).eval(), (ids, torch.ones_like(ids))


def _on_meta(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return cls(config)


def _read(place: Path, load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return load(*args, local_files_only=True, **kwargs)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise UserError(f"{place} can't be loaded by transformers: {reason}.") from error
