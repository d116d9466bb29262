"""Models of transformers, with random weights: neurons of feed-forward layers and heads are found, cut, and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from decoct.apply import apply
from decoct.graph import groups
from decoct.graph.removal import masked
from decoct.selfcheck import difference, verified

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# Weights this large: with small ones attention is nearly uniform, and a model with the wrong heads nearly right.
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 48,
    "initializer_range": 0.5,
}  # fmt: skip
WORDS = {"vocab_size": 50, "max_position_embeddings": 16}
PIXELS = {"image_size": 16, "patch_size": 8, "num_labels": 3}


def text(batch: int = 2, length: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, -1] = 0
    return {"input_ids": torch.randint(3, 50, (batch, length), generator=generator), "attention_mask": mask}


def images(batch: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))}


class Case(NamedTuple):
    """A model and what is known of it.

    heads, neurons: the groups by the layer's number. units: of the first. shapes: after heads 0 and 2 and every second
    neuron are gone. counts: attributes of the attention of a layer after that.
    """

    build: Callable[[], nn.Module]
    example: Callable[..., dict[str, Tensor]]
    heads: str
    neurons: str
    units: int
    shapes: dict[str, tuple[int, int]]
    counts: dict[str, int]


CASES = {
    "bert": Case(
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **WORDS, num_labels=3)),
        text, "bert.encoder.layer.{}.attention.self.query", "bert.encoder.layer.{}.intermediate.dense", 8,
        {
            "attention.self.query": (24, 32), "attention.self.key": (24, 32), "attention.self.value": (24, 32),
            "attention.output.dense": (32, 24), "intermediate.dense": (24, 32), "output.dense": (32, 24),
        },
        {"attention.self.num_attention_heads": 6},
    ),
    "llama": Case(  # two heads of queries for one of keys and values
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **WORDS, num_key_value_heads=4)),
        text, "model.layers.{}.self_attn.q_proj", "model.layers.{}.mlp.gate_proj", 4,
        {
            "self_attn.q_proj": (16, 32), "self_attn.k_proj": (8, 32), "self_attn.v_proj": (8, 32),
            "self_attn.o_proj": (32, 16), "mlp.gate_proj": (24, 32), "mlp.up_proj": (24, 32), "mlp.down_proj": (32, 24),
        },
        {"self_attn.num_key_value_groups": 2},
    ),
    "vit": Case(
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **PIXELS)),
        images, "vit.layers.{}.attention.q_proj", "vit.layers.{}.mlp.fc1", 8,
        {
            "attention.q_proj": (24, 32), "attention.k_proj": (24, 32), "attention.v_proj": (24, 32),
            "attention.o_proj": (32, 24), "mlp.fc1": (24, 32), "mlp.fc2": (32, 24),
        },
        {"attention.num_attention_heads": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_heads_and_neurons_can_be_cut(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval()
    graph = groups(model, case.example())
    sizes = {group.name: group.size for group in graph.groups}
    removed: dict[str, Any] = {}
    for layer in range(2):
        heads, neurons = case.heads.format(layer), case.neurons.format(layer)
        assert (sizes[heads], sizes[neurons]) == (case.units, 48)
        removed |= {heads: [0, 2], neurons: range(0, 48, 2)}

    edits, refused = verified(model, case.example(), graph, removed)
    assert not refused
    smaller = apply(model, edits)
    for layer in range(2):
        path = case.heads.format(layer).partition(f".{layer}.")[0] + f".{layer}"
        block = smaller.get_submodule(path)
        assert {part: tuple(block.get_submodule(part).weight.shape) for part in case.shapes} == case.shapes
        for attribute, count in case.counts.items():
            owner, _, leaf = attribute.rpartition(".")
            assert getattr(block.get_submodule(owner), leaf) == count
    assert difference(masked(model, graph, removed), smaller, case.example(batch=3)) < 1e-5


def test_a_bias_by_head_goes_with_the_heads_of_all_layers_that_use_it() -> None:
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    model = transformers.T5EncoderModel(config).eval()
    graph = groups(model, text())
    heads = graph.group("encoder.block.0.layer.0.SelfAttention.q")
    assert heads.size == 4
    projections = {f"encoder.block.{layer}.layer.0.SelfAttention.{part}.weight" for layer in (0, 1) for part in "qkvo"}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert {member.tensor for member in heads.members} == {*projections, bias}
    assert verified(model, text(), graph, {heads.name: [1, 2]})[1] == {}
