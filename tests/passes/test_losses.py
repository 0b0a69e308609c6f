import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from chipfit.passes.losses import attention, divergence, relative_error

LENGTH = 6
MASK = torch.full((LENGTH, LENGTH), -1e9).triu(1)


def test_divergence_is_the_mean_over_rows_of_what_the_definition_says() -> None:
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(divergence(student, teacher), (p * (p / q).log()).sum(-1).mean())


def test_divergence_is_zero_only_for_the_same_distribution() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert divergence(logits + 3, logits).item() == pytest.approx(0, abs=1e-6)
    assert divergence(logits * 2, logits).item() > 0.01


def test_temperature_softens_both_sides_and_keeps_the_size_of_gradients() -> None:
    student, teacher = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(divergence(student, teacher, 2.0), 4 * divergence(student / 2, teacher / 2))


def test_relative_error_does_not_depend_on_the_scale() -> None:
    got, wanted = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(relative_error(100 * got, 100 * wanted), relative_error(got, wanted))
    assert relative_error(torch.zeros_like(wanted), wanted).item() == pytest.approx(1)
    assert relative_error(torch.zeros(3), torch.zeros(3)).item() == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"attn_mask": MASK},
        {"attn_mask": MASK == 0},
        {"scale": 0.3},
        {"enable_gqa": True, "attn_mask": MASK},
    ],
    ids=["plain", "causal", "additive mask", "boolean mask", "scale", "grouped queries"],
)
def test_attention_written_out_equals_the_fused_one(options: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = 2 if options.get("enable_gqa") else 4
    query = torch.randn(2, 4, LENGTH, 8, generator=generator)
    key, value = torch.randn(2, 2, heads, LENGTH, 8, generator=generator)
    wanted = scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), wanted)
