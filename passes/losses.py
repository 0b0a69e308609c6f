"""How far a student is from its teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over the rows of KL(teacher || student) in nats, both given as logits [rows, classes].

    A temperature above 1 weighs unlikely classes more; its square keeps the gradient's size (Hinton et al. 2015,
    arXiv 1503.02531, section 2.1).
    """
    said, wanted = (functional.log_softmax(logits.float() / temperature, -1) for logits in (student, teacher))
    return log_divergence(said, wanted) * temperature**2


def log_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """`divergence` of log-probabilities [rows, classes]."""
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error as a fraction of the teacher's energy, so that values of any scale weigh alike."""
    wanted = teacher.float()
    energy = wanted.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return (student.float() - wanted).square().mean() / energy


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
