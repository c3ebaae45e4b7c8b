"""LoRA attention as diffusers had it when threestudio was written; today's class of that name is empty."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """x -> up(down(x)): starts at zero, with standard deviation 1/rank in ``down`` (diffusers 0.19's start)."""

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(n_in, rank, bias=False), nn.Linear(rank, n_out, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x.to(self.down.weight.dtype))).to(x.dtype)


class LoRAAttnProcessor(nn.Module):
    """Attention with a trained addition of low rank to each of its four projections.

    Args:
        hidden_size: width of the queries. cross_attention_dim: width of what they look at; None: themselves.
        rank: of the additions.
    """

    #: size of the additions in the running call of the U-Net (``cross_attention_kwargs["scale"]``).
    scale = 1.0

    def __init__(self, hidden_size: int, cross_attention_dim: int | None = None, rank: int = 4, **_) -> None:
        super().__init__()
        context = cross_attention_dim or hidden_size
        self.to_q_lora, self.to_out_lora = (LoRALinear(hidden_size, hidden_size, rank) for _ in range(2))
        self.to_k_lora, self.to_v_lora = (LoRALinear(context, hidden_size, rank) for _ in range(2))

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        return self.forward(attn, hidden_states, encoder_hidden_states, attention_mask)

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        """[B, L, D] -> [B, L, D]; with the residual and norms that the attention block asks for."""
        residual = hidden_states
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        q = attn.to_q(hidden_states) + self.scale * self.to_q_lora(hidden_states)
        k = attn.to_k(context) + self.scale * self.to_k_lora(context)
        v = attn.to_v(context) + self.scale * self.to_v_lora(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        out = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k, attention_mask), v))
        out = attn.to_out[0](out) + self.scale * self.to_out_lora(out)
        out = attn.to_out[1](out)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def pass_scale_to_processors(unet_class: type) -> None:
    """Make ``cross_attention_kwargs={"scale": s}`` reach :class:`LoRAAttnProcessor` again; diffusers now drops it."""
    forward = unet_class.forward

    def with_scale(self, *args, cross_attention_kwargs=None, **kwargs):
        processors = [p for p in self.attn_processors.values() if isinstance(p, LoRAAttnProcessor)]
        for processor in processors:
            processor.scale = (cross_attention_kwargs or {}).get("scale", 1.0)
        rest = {key: value for key, value in (cross_attention_kwargs or {}).items() if key != "scale"}
        return forward(self, *args, cross_attention_kwargs=rest if processors else cross_attention_kwargs, **kwargs)

    unet_class.forward = with_scale
