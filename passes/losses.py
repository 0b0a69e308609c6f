"""How far a student is from its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 32  # of logits at a time, which stay in the cache


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the rows of KL(teacher || student) in nats, both given as logits [rows, classes].

    A temperature above 1 weighs unlikely classes more; its square keeps the gradient's size (Hinton et al. 2015,
    arXiv 1503.02531, section 2.1). The teacher gets no gradient.
    """
    apply: Callable[[Tensor, Tensor], Tensor] = _Divergence.apply
    return apply(student / temperature, teacher.detach() / temperature) * temperature**2


class _Divergence(torch.autograd.Function):
    """The divergence with its gradient found on the way, some rows at a time.

    Composed of PyTorch's own ops it goes over hundreds of megabytes a dozen times for a large vocabulary.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        gradient, losses = torch.empty_like(student), list[Tensor]()
        for place, own, taught in zip(*(tensor.split(ROWS) for tensor in (gradient, student, teacher)), strict=True):
            said, wanted = (functional.log_softmax(logits.float(), -1) for logits in (own, taught))
            likely = wanted.exp()
            losses.append(wanted.sub_(said).mul_(likely).sum())
            place.copy_(said.exp_().sub_(likely).div_(len(student)))
        ctx.save_for_backward(gradient)
        return torch.stack(losses).sum() / len(student)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None


def log_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """`divergence` of log-probabilities [rows, classes]."""
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error as a fraction of the teacher's energy, so that values of any scale weigh alike."""
    wanted = teacher.detach().float()
    energy = torch.linalg.vector_norm(wanted).square() / wanted.numel()
    error: Tensor = functional.mse_loss(student.float(), wanted) / energy.clamp_min(torch.finfo(torch.float32).tiny)
    return error


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` without dropout, written out: on a CPU its fused backward takes twice as long."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).to(value.dtype) @ value
