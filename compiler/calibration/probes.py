"""The short, fixed set of small graphs that calibration times: those that fit coefficients, and networks held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from chipfit.calibration.probe_nets import (
    Attention,
    Moves,
    Rotary,
    Rows,
    basics,
    bottlenecks,
    convs,
    decoder,
    depthwise,
    encoder,
    inverted,
    inverteds,
    linears,
    pooled,
    pools,
    residuals,
    stacked,
)


@dataclass(frozen=True)
class Probe:
    """A module over one float input of `shape`, in int8 where `rounded`. The held-out ones take no part in the fit."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    held_out: bool = False
    rounded: bool = False


PROBES = (
    Probe("linear 1x576", lambda: linears(576, 1536, 576, 1536, 576, 1536, 576), (1, 576)),
    Probe("linear 16x384", lambda: linears(384, 1152, 384, 1152, 384), (1, 16, 384)),
    Probe("linear 64x200", lambda: linears(200, 333, 100, 777, 120), (1, 64, 200)),
    Probe("linear 128x576", lambda: linears(576, 1536, 576), (1, 128, 576)),
    Probe("linear 128x192", lambda: linears(192, 192, 320, 64), (1, 128, 192)),
    Probe("result 128x16384", lambda: linears(192, 16384), (1, 128, 192)),
    Probe("result 200x8000", lambda: linears(64, 8000), (1, 200, 64)),
    Probe("conv 3x3 32x32", lambda: pooled(convs(3, 1, 16, 16, 24, 40)), (1, 16, 32, 32)),
    Probe("conv 3x3 16x16", lambda: pooled(convs(3, 2, 32, 48, 64)), (1, 32, 32, 32)),
    Probe("conv 3x3 7x7", lambda: pooled(convs(3, 1, 64, 128, 100)), (1, 64, 7, 7)),
    Probe("conv 1x1 28x28", lambda: pooled(convs(1, 1, 40, 240, 40)), (1, 40, 28, 28)),
    Probe("conv 1x1 56x56", lambda: pooled(convs(1, 1, 24, 144, 24)), (1, 24, 56, 56)),
    Probe("conv stem", lambda: pooled(convs(3, 2, 3, 32, 32)), (1, 3, 112, 112)),
    Probe("depthwise 56x56", lambda: pooled(depthwise(96, (3, 1), (3, 2))), (1, 96, 56, 56)),
    Probe("depthwise 14x14", lambda: pooled(depthwise(240, (5, 1), (3, 1))), (1, 240, 14, 14)),
    Probe("pools", pools, (1, 64, 56, 56)),
    Probe("rows 128x576", lambda: Rows(576), (1, 128, 576)),
    Probe("rotary 9x128x64", lambda: Rotary(128, 64), (1, 9, 128, 64)),
    Probe("rotary 2x32x32", lambda: Rotary(32, 32), (1, 2, 32, 32)),
    Probe("moves 128x576", Moves, (1, 128, 576)),
    Probe("attention 9x64", lambda: Attention(192, 9, 64, 3), (1, 128, 192)),
    Probe("attention 12x32", lambda: Attention(64, 12, 32), (1, 64, 64)),
    Probe("attention 10x64", lambda: Attention(640, 10, 64, 5), (1, 128, 640)),
    Probe("basic 56x56", lambda: basics(48, 2), (1, 48, 56, 56)),
    Probe("basic 28x28", lambda: basics(96, 2), (1, 96, 28, 28)),
    Probe("basic 14x14", lambda: basics(200, 2), (1, 200, 14, 14)),
    Probe("basic 8x8", lambda: basics(56, 2), (1, 56, 8, 8)),
    Probe("basic 7x7", lambda: basics(400, 2), (1, 400, 7, 7)),
    Probe("bottleneck 56x56", lambda: bottlenecks(192, 48, 2), (1, 192, 56, 56)),
    Probe("bottleneck 14x14", lambda: bottlenecks(640, 160, 3), (1, 640, 14, 14)),
    Probe("bottleneck 7x7", lambda: bottlenecks(1280, 320, 2), (1, 1280, 7, 7)),
    Probe("inverted 112x112", lambda: pooled(inverted(20, 6, 3, 2, 28)), (1, 20, 112, 112)),
    Probe("inverted 56x56", lambda: inverteds(28, 6, 3, 2), (1, 28, 56, 56)),
    Probe("inverted 28x28", lambda: inverteds(36, 6, 5, 2), (1, 36, 28, 28)),
    Probe("inverted 14x14", lambda: inverteds(72, 6, 3, 2), (1, 72, 14, 14)),
    Probe("inverted 7x7", lambda: inverteds(144, 6, 5, 2), (1, 144, 7, 7)),
    Probe("encoders 320", lambda: stacked(lambda: encoder(320, 10, 32, 1280), 4), (1, 128, 320)),
    Probe("decoders 1152", lambda: stacked(lambda: decoder(1152, 9, 128, 3, 3072), 4), (1, 64, 1152)),
    Probe("small residuals", lambda: residuals(12, 20, 28, 36, 44), (1, 3, 24, 24)),  # which tells of dispatch
    Probe("rounded 1x576", lambda: linears(576, 1536, 576, 1536), (1, 576), rounded=True),
    Probe("rounded 16x384", lambda: linears(384, 1152, 384, 1152, 384), (1, 16, 384), rounded=True),
    Probe("rounded 128x576", lambda: linears(576, 1536, 576), (1, 128, 576), rounded=True),
    Probe("rounded 3x3 32x32", lambda: pooled(convs(3, 1, 16, 16, 24, 40)), (1, 16, 32, 32), rounded=True),
    Probe("rounded 3x3 7x7", lambda: pooled(convs(3, 1, 64, 128, 100)), (1, 64, 7, 7), rounded=True),
    Probe("rounded 1x1 28x28", lambda: pooled(convs(1, 1, 40, 240, 40)), (1, 40, 28, 28), rounded=True),
    Probe("rounded 1x1 7x7", lambda: pooled(convs(1, 1, 200, 1200, 320)), (1, 200, 7, 7), rounded=True),
    Probe("rounded basic 28x28", lambda: basics(32, 2), (1, 32, 28, 28), rounded=True),
    Probe("rounded basic 14x14", lambda: basics(200, 2), (1, 200, 14, 14), rounded=True),
    Probe("rounded residuals", lambda: residuals(12, 20, 28, 36, 44), (1, 3, 24, 24), rounded=True),
    Probe("stream 67 MB", lambda: linears(*[1448] * 9), (1, 1448)),
    Probe("stream 200 MB", lambda: linears(*[1448] * 25), (1, 1448)),
    Probe("stream 400 MB", lambda: linears(*[1448] * 49), (1, 1448)),
    Probe("linear 32x320", lambda: linears(320, 880, 320), (1, 32, 320), held_out=True),
    Probe("residual 16", lambda: residuals(16, 32, 64), (1, 3, 32, 32), held_out=True),
    Probe("residual 11", lambda: residuals(11, 23, 50), (1, 3, 32, 32), held_out=True),
    Probe("inverted 24", lambda: pooled(inverted(24, 6, 3, 2, 40)), (1, 24, 28, 28), held_out=True),
    Probe("decoder 576", lambda: decoder(576, 6, 64, 3, 900), (1, 128, 576), held_out=True),
    Probe("encoder 384", lambda: encoder(384, 7, 32, 700), (1, 128, 384), held_out=True),
    Probe("basics 120", lambda: basics(120, 3), (1, 120, 14, 14), held_out=True),
    Probe("bottlenecks 384", lambda: bottlenecks(384, 96, 3), (1, 384, 28, 28), held_out=True),
    Probe("inverteds 88", lambda: inverteds(88, 6, 5, 2), (1, 88, 14, 14), held_out=True),
    Probe("inverteds 176", lambda: inverteds(176, 6, 3, 2), (1, 176, 7, 7), held_out=True),
    Probe("encoders 448", lambda: stacked(lambda: encoder(448, 7, 64, 1500), 6), (1, 128, 448), held_out=True),
    Probe("decoders 640", lambda: stacked(lambda: decoder(640, 10, 64, 5, 1700), 4), (1, 128, 640), held_out=True),
    Probe("rounded residual 16", lambda: residuals(16, 32, 64), (1, 3, 32, 32), held_out=True, rounded=True),
    Probe("rounded inverteds 88", lambda: inverteds(88, 6, 5, 2), (1, 88, 14, 14), held_out=True, rounded=True),
    Probe("rounded encoder 384", lambda: encoder(384, 7, 32, 700), (1, 128, 384), held_out=True, rounded=True),
    Probe("step 1024", lambda: stacked(lambda: linears(1024, 2700, 1024), 14), (1, 1024), held_out=True),
)
