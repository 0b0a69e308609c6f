"""Elementary functions on float32 vectors, and the table of pointwise ops that epilogues may use.

The polynomials are those of the Cephes library (S. Moshier, `expf.c`, `tanhf.c`, `logf.c`), about 2 units in the last
place; erf is the rational approximation of the Eigen library, absolute error below 3e-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tvm.tirx import Select
from tvm.tirx.script import builder as T

from chipfit.codegen.kernel import Expr, Simd

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
_ERF_ABOVE = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_BELOW = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    -1.42647390514189e-02,
)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # ln 2 in two parts, the first exact in few bits
_EXP_LOW, _EXP_HIGH = -87.9, 88.7228  # below, the scale 2**-127 has the bits of zero; above, exp overflows


def polynomial(simd: Simd, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, highest power first."""
    x = T.bind(x)
    value = simd.splat(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + simd.splat(coefficient)
    return value


def exp(simd: Simd, x: Expr) -> Expr:
    """2**n * exp(r) with x = n ln 2 + r. Zero below -87.9, so exp(-inf) is 0; saturates at exp(88.7228)."""
    x = T.bind(T.min(T.max(x, simd.splat(_EXP_LOW)), simd.splat(_EXP_HIGH)))
    n = T.bind(T.min(T.nearbyint(x * simd.splat(1 / math.log(2))), simd.splat(127)))
    r = T.bind(x - n * simd.splat(_LN2_HIGH) - n * simd.splat(_LN2_LOW))
    power = T.bind(polynomial(simd, r, _EXP) * (r * r) + r + simd.splat(1))
    integers = f"int32x{simd.lanes}"
    exponent = T.cast(n, integers) + T.broadcast(T.int32(127), simd.lanes)
    scale = T.reinterpret(f"float32x{simd.lanes}", T.shift_left(exponent, T.broadcast(T.int32(23), simd.lanes)))
    return T.bind(power * scale)


def log(simd: Simd, x: Expr) -> Expr:
    """e ln 2 + log(m) with x = 2**e m, m in [sqrt(1/2), sqrt(2)); for normal positive x."""
    lanes, integers = simd.lanes, f"int32x{simd.lanes}"
    bits = T.bind(T.reinterpret(integers, x) - T.broadcast(T.int32(0x3F3504F3), lanes))
    e = T.bind(T.shift_right(bits, T.broadcast(T.int32(23), lanes)))
    mantissa = T.bitwise_and(bits, T.broadcast(T.int32(0x7FFFFF), lanes)) + T.broadcast(T.int32(0x3F3504F3), lanes)
    r = T.bind(T.reinterpret(f"float32x{lanes}", mantissa) - simd.splat(1))
    square, n = T.bind(r * r), T.bind(T.cast(e, f"float32x{lanes}"))
    tail = polynomial(simd, r, _LOG) * r * square + n * simd.splat(_LN2_LOW) - simd.splat(0.5) * square
    return T.bind(r + tail + n * simd.splat(_LN2_HIGH))


def sigmoid(simd: Simd, x: Expr) -> Expr:
    return T.bind(simd.splat(1) / (simd.splat(1) + exp(simd, simd.splat(0) - x)))


def tanh(simd: Simd, x: Expr) -> Expr:
    """Odd polynomial below 0.625, 1 - 2 / (exp(2x) + 1) beyond."""
    x = T.bind(x)
    square = T.bind(x * x)
    small = x + x * square * polynomial(simd, square, _TANH)
    large = simd.splat(1) - simd.splat(2) / (exp(simd, x + x) + simd.splat(1))
    return T.bind(Select(square < simd.splat(0.625**2), small, large))


def erf(simd: Simd, x: Expr) -> Expr:
    """An odd rational function; erf(4) is 1 in float32."""
    x = clamp(simd, x, simd.splat(-4), simd.splat(4))
    square = T.bind(x * x)
    return T.bind(x * polynomial(simd, square, _ERF_ABOVE) / polynomial(simd, square, _ERF_BELOW))


def gelu(simd: Simd, x: Expr) -> Expr:
    x = T.bind(x)
    return T.bind(x * simd.splat(0.5) * (simd.splat(1) + erf(simd, x * simd.splat(math.sqrt(0.5)))))


def gelu_tanh(simd: Simd, x: Expr) -> Expr:
    """x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x**3)), the same as the form with tanh."""
    x = T.bind(x)
    inner = x + simd.splat(0.044715) * x * x * x
    return T.bind(x * sigmoid(simd, simd.splat(2 * math.sqrt(2 / math.pi)) * inner))


def silu(simd: Simd, x: Expr) -> Expr:
    x = T.bind(x)
    return T.bind(x * sigmoid(simd, x))


def clamp(simd: Simd, x: Expr, low: Expr, high: Expr) -> Expr:
    return T.bind(T.min(T.max(x, low), high))


def leaky_relu(simd: Simd, x: Expr, slope: Expr) -> Expr:
    x = T.bind(x)
    return T.bind(Select(x < simd.splat(0), x * slope, x))


def hardsigmoid(simd: Simd, x: Expr) -> Expr:
    return T.bind(T.min(T.max((x + simd.splat(3)) * simd.splat(1 / 6), simd.splat(0)), simd.splat(1)))


def hardswish(simd: Simd, x: Expr) -> Expr:
    x = T.bind(x)
    return T.bind(x * hardsigmoid(simd, x))


def rsqrt(simd: Simd, x: Expr) -> Expr:
    return T.bind(simd.splat(1) / T.sqrt(x))


LIGHT: Mapping[str, Callable[..., Expr]] = {
    "abs": lambda simd, x: T.bind(T.max(x, simd.splat(0) - x)),
    "add": lambda simd, a, b: T.bind(a + b),
    "clamp": clamp,
    "clamp_max": lambda simd, x, high: T.bind(T.min(x, high)),
    "clamp_min": lambda simd, x, low: T.bind(T.max(x, low)),
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "hardtanh": clamp,
    "leaky_relu": leaky_relu,
    "maximum": lambda simd, a, b: T.bind(T.max(a, b)),
    "minimum": lambda simd, a, b: T.bind(T.min(a, b)),
    "mul": lambda simd, a, b: T.bind(a * b),
    "neg": lambda simd, x: T.bind(simd.splat(0) - x),
    "relu": lambda simd, x: T.bind(T.max(x, simd.splat(0))),
    "relu6": lambda simd, x: clamp(simd, x, simd.splat(0), simd.splat(6)),
    "rsub": lambda simd, a, b: T.bind(b - a),
    "square": lambda simd, x: T.bind(x * x),
    "sub": lambda simd, a, b: T.bind(a - b),
    "where": lambda simd, chosen, a, b: T.bind(Select(chosen != simd.splat(0), a, b)),
}
"""Ops of a few instructions: worth inlining behind every accumulator of a tile."""

HEAVY: Mapping[str, Callable[..., Expr]] = {
    "div": lambda simd, a, b: T.bind(a / b),
    "erf": erf,
    "exp": exp,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "log": log,
    "reciprocal": lambda simd, x: T.bind(simd.splat(1) / x),
    "rsqrt": rsqrt,
    "sigmoid": sigmoid,
    "silu": silu,
    "sqrt": lambda simd, x: T.bind(T.sqrt(x)),
    "tanh": tanh,
}

POINTWISE: Mapping[str, Callable[..., Expr]] = {**LIGHT, **HEAVY}
"""ATen name -> f(simd, *vectors) -> vector."""
