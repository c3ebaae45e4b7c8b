"""The EDM networks once more, slowly: loops over taps, groups, heads and pixels, read from a state dict.

It is written from the papers' definitions, not from the modules, and serves as their oracle in float64.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def part(weights: Weights, prefix: str) -> Weights:
    """The entries below a prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(prefix + ".")}


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def linear(x: Tensor, weights: Weights) -> Tensor:
    y = torch.stack([(x * row).sum(-1) for row in weights["weight"]], dim=-1)
    return y + weights["bias"] if "bias" in weights else y


def framed(x: Tensor, width: int) -> Tensor:
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, h + 2 * width, w + 2 * width)
    y[:, :, width : width + h, width : width + w] = x
    return y


def conv(x: Tensor, weights: Weights, padding: int | None = None, bias: bool = True) -> Tensor:
    kernel = weights["weight"]
    size = kernel.shape[-1]
    x = framed(x, size // 2 if padding is None else padding)
    h, w = x.shape[2] - size + 1, x.shape[3] - size + 1
    y = x.new_zeros(x.shape[0], kernel.shape[0], h, w)
    for i in range(size):
        for j in range(size):
            y += torch.einsum("dc,bchw->bdhw", kernel[:, :, i, j], x[:, :, i : i + h, j : j + w])
    return y + weights["bias"][None, :, None, None] if bias else y


def group_norm(x: Tensor, weights: Weights, eps: float) -> Tensor:
    channels = x.shape[1]
    groups = min(32, channels // 4)
    size = channels // groups
    y = torch.empty_like(x)
    for b in range(x.shape[0]):
        for g in range(groups):
            values = x[b, g * size : (g + 1) * size]
            variance = ((values - values.mean()) ** 2).mean()
            y[b, g * size : (g + 1) * size] = (values - values.mean()) / (variance + eps).sqrt()
    return y * weights["weight"][None, :, None, None] + weights["bias"][None, :, None, None]


def halve(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Every second pixel of x correlated with the kernel."""
    k = kernel[0, 0]
    x = framed(x, padding)
    h, w = (x.shape[2] - len(k)) // 2 + 1, (x.shape[3] - len(k)) // 2 + 1
    y = x.new_zeros(*x.shape[:2], h, w)
    for i in range(h):
        for j in range(w):
            y[:, :, i, j] = (x[:, :, 2 * i : 2 * i + len(k), 2 * j : 2 * j + len(k)] * k).sum((2, 3))
    return y


def double(x: Tensor, kernel: Tensor) -> Tensor:
    """Each pixel stamps four times the kernel, two pixels apart; the rim is cut to twice the resolution."""
    k = 4 * kernel[0, 0]
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, 2 * h - 2 + len(k), 2 * w - 2 + len(k))
    for i in range(h):
        for j in range(w):
            y[:, :, 2 * i : 2 * i + len(k), 2 * j : 2 * j + len(k)] += x[:, :, i, j][:, :, None, None] * k
    rim = (len(k) - 1) // 2
    return y[:, :, rim : rim + 2 * h, rim : rim + 2 * w]


def resampled(x: Tensor, weights: Weights, direction: str | None) -> Tensor:
    if direction is None:
        return x
    kernel = weights["resample_filter"]
    return double(x, kernel) if direction == "up" else halve(x, kernel, (kernel.shape[-1] - 1) // 2)


def attention(x: Tensor, weights: Weights, heads: int, eps: float) -> Tensor:
    b, c, h, w = x.shape
    per_head = c // heads
    qkv = conv(group_norm(x, part(weights, "norm2"), eps), part(weights, "qkv")).reshape(b, 3 * c, h * w)
    mixed = x.new_zeros(b, c, h * w)
    for n in range(b):
        for head in range(heads):
            rows = [3 * (head * per_head + i) for i in range(per_head)]  # query; + 1 key; + 2 value
            q, k, v = (qkv[n, [r + offset for r in rows]] for offset in range(3))
            for pixel in range(h * w):
                scores = (q[:, pixel, None] * k).sum(0) / sqrt(per_head)
                shares = torch.exp(scores - scores.max())
                shares = shares / shares.sum()
                mixed[n, head * per_head : (head + 1) * per_head, pixel] = (v * shares).sum(1)
    return conv(mixed.reshape(b, c, h, w), part(weights, "proj"))


def block(x: Tensor, emb: Tensor, weights: Weights, *, adm: bool, direction: str | None = None) -> Tensor:
    """One residual block; whether it attends or projects its shortcut shows in the weights it has."""
    eps, scale = (1e-5, 1.0) if adm else (1e-6, sqrt(0.5))
    hidden = resampled(silu(group_norm(x, part(weights, "norm0"), eps)), part(weights, "conv0"), direction)
    hidden = conv(hidden, part(weights, "conv0"))
    params = linear(emb, part(weights, "affine"))[:, :, None, None]
    if adm:
        c = hidden.shape[1]
        hidden = group_norm(hidden, part(weights, "norm1"), eps) * (params[:, :c] + 1) + params[:, c:]
    else:
        hidden = group_norm(hidden + params, part(weights, "norm1"), eps)
    hidden = conv(silu(hidden), part(weights, "conv1"))
    skip = part(weights, "skip")
    shortcut = resampled(x, skip, direction)
    if "weight" in skip:
        shortcut = conv(shortcut, skip)
    x = (hidden + shortcut) * scale
    if "qkv.weight" in weights:
        heads = x.shape[1] // 64 if adm else 1
        x = (x + attention(x, weights, heads, eps)) * scale
    return x


def noise_features(c_noise: Tensor, config: dict, weights: Weights) -> Tensor:
    """[B, channels] before the first linear layer."""
    adm = config["model_type"] == "DhariwalUNet"
    if config.get("embedding_type") == "fourier":
        angles = [2 * pi * f * c_noise for f in weights["map_noise.freqs"]]
    else:
        half = config["model_channels"] // 2
        last = half if adm else half - 1
        angles = [c_noise * 10_000 ** (-i / last) for i in range(half)]
    sines, cosines = [a.sin() for a in angles], [a.cos() for a in angles]
    return torch.stack(cosines + sines if adm else sines + cosines, dim=1)


def embedding(c_noise: Tensor, labels: Tensor | None, augment: Tensor | None, config: dict, weights: Weights) -> Tensor:
    """[B, E], the last silu included."""
    adm = config["model_type"] == "DhariwalUNet"
    emb = noise_features(c_noise, config, weights)
    if labels is not None and not adm:
        emb = emb + linear(labels * sqrt(labels.shape[1]), part(weights, "map_label"))
    if augment is not None:
        emb = emb + linear(augment, part(weights, "map_augment"))
    emb = linear(silu(linear(emb, part(weights, "map_layer0"))), part(weights, "map_layer1"))
    if labels is not None and adm:
        emb = emb + linear(labels, part(weights, "map_label"))
    return silu(emb)


def denoise(
    x: Tensor, sigma: Tensor, labels: Tensor | None, augment: Tensor | None, config: dict, weights: Weights
) -> tuple[Tensor, Tensor]:
    """x̂0 and the deepest encoder activation, from the arguments and state dict of an EDMPrecond."""
    weights, adm = part(weights, "model"), config["model_type"] == "DhariwalUNet"
    data2 = config["sigma_data"] ** 2
    noise = sigma[:, None, None, None]
    emb = embedding(sigma.log() / 4, labels, augment, config, weights)
    h = x / (noise**2 + data2).sqrt()

    resolutions = [config["img_resolution"] // 2**level for level in range(len(config["channel_mult"]))]
    skips, pyramid = [], h
    for res in resolutions:
        at = f"enc.{res}x{res}"
        if res == resolutions[0]:
            h = conv(h, part(weights, f"{at}_conv"))
        else:
            h = block(h, emb, part(weights, f"{at}_down"), adm=adm, direction="down")
        aux = part(weights, f"{at}_aux_residual")
        if aux:
            frame = 1 + (aux["resample_filter"].shape[-1] - 1) // 2
            pyramid = halve(conv(pyramid, aux, padding=frame, bias=False), aux["resample_filter"], 0)
            h = pyramid = (h + pyramid + aux["bias"][None, :, None, None]) / sqrt(2)
        skips.append(h)
        for i in range(config["num_blocks"]):
            h = block(h, emb, part(weights, f"{at}_block{i}"), adm=adm)
            skips.append(h)
    bottleneck = h
    for res in resolutions[::-1]:
        at = f"dec.{res}x{res}"
        if res == resolutions[-1]:
            h = block(block(h, emb, part(weights, f"{at}_in0"), adm=adm), emb, part(weights, f"{at}_in1"), adm=adm)
        else:
            h = block(h, emb, part(weights, f"{at}_up"), adm=adm, direction="up")
        for i in range(config["num_blocks"] + 1):
            h = block(torch.cat([h, skips.pop()], 1), emb, part(weights, f"{at}_block{i}"), adm=adm)
    norm, last = ("out_norm", "out_conv") if adm else (f"{at}_aux_norm", f"{at}_aux_conv")
    output = conv(silu(group_norm(h, part(weights, norm), 1e-5 if adm else 1e-6)), part(weights, last))
    x0 = data2 / (noise**2 + data2) * x + noise * sqrt(data2) / (noise**2 + data2).sqrt() * output
    return x0, bottleneck
