"""Recipes: what they say is what is built, and what they cannot say is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decoct.errors import RecipeError
from decoct.prune.magnitude import Magnitude
from decoct.quantize.kmeans import KMeans
from decoct.recipe import Recipe
from decoct.train.finetune import Finetune


def test_a_recipe_gives_its_model_task_and_methods(tiny: Path) -> None:
    recipe = Recipe.load(tiny)
    assert recipe.name == "tiny"
    assert recipe.names() == ["train.finetune", "prune.magnitude", "quantize.kmeans"]
    assert recipe.methods() == [
        Finetune(epochs=2, lr=0.05),
        Magnitude(density=0.5, retrain=Finetune(epochs=1)),
        KMeans(bits={"0*": 3, "*": 2}),
    ]
    assert sum(each.numel() for each in recipe.build_model().parameters()) == 8 * 16 + 16 + 16 * 3 + 3
    assert len(list(recipe.build_task().train)) == 4


def test_the_seed_draws_the_model(tiny: Path) -> None:
    first, again = Recipe.load(tiny).build_model(), Recipe.load(tiny).build_model()
    other = Recipe.load(tiny).with_seed(2).build_model()
    assert torch.equal(first[0].weight, again[0].weight)  # type: ignore[index]
    assert not torch.equal(first[0].weight, other[0].weight)  # type: ignore[index]


def test_toml_comes_back_equal(tiny: Path) -> None:
    recipe = Recipe.load(tiny)
    again = Recipe.parse(recipe.to_toml())
    assert again.to_toml() == recipe.to_toml()
    assert again.methods() == recipe.methods()
    assert again.hash == recipe.hash


def test_the_hash_is_of_what_is_computed(tiny: Path) -> None:
    text, recipe = tiny.read_text(), Recipe.load(tiny)
    assert len(recipe.hash) == 12
    assert Recipe.parse('name = "x"\n# words\n' + text).hash == recipe.hash
    assert Recipe.parse(text.replace("epochs = 1", "epochs = 1\nmomentum = 0.9")).hash == recipe.hash, "a default"
    assert Recipe.parse(text.replace("density = 0.5", "density = 0.6")).hash != recipe.hash
    assert recipe.with_seed(9).hash != recipe.hash


def test_from_methods_is_the_recipe_that_they_would_have() -> None:
    methods = [Magnitude(density=0.5, retrain=Finetune(lr=0.3)), KMeans(bits={"0*": 3, "*": 2})]
    recipe = Recipe.from_methods(methods, seed=4)
    assert recipe.names() == ["prune.magnitude", "quantize.kmeans"]
    assert Recipe.parse(recipe.to_toml()).methods() == methods
    with pytest.raises(RecipeError, match="is not a method"):
        Recipe.from_methods(["prune.magnitude"])  # type: ignore[list-item]


WRONG = {
    "unknown key": ("seed = 1", "sede = 1", 2, "unknown key 'sede'; did you mean 'seed'"),
    "unknown table": ("[task]", "[tusk]", 7, "unknown key 'tusk'; did you mean 'task'"),
    "key of a table": ('factory = "tiny_project:net"', 'factry = "x"', 5, "did you mean 'factory'"),
    "missing key": ('factory = "tiny_project:net"', "", 4, "the key 'factory' is missing"),
    "wrong type": ("seed = 1", 'seed = "1"', 2, "seed must be a whole number, not '1'"),
    "truth value for a number": ("lr = 0.05", "lr = true", 14, "lr must be a number, not True"),
    "negative seed": ("seed = 1", "seed = -1", 2, "seed must be greater than or equal to 0, not -1"),
    "unknown method": ('"quantize.kmeans"', '"quantize.kmean"', 24, "did you mean 'quantize.kmeans'"),
    "no method": ('method = "quantize.kmeans"', "", 23, "a step needs method"),
    "unknown field": ("density = 0.5", "densty = 0.5", 18, "unknown key 'densty'; did you mean 'density'"),
    "field of an inner method": ("epochs = 1", "epoch = 1", 21, "unknown key 'epoch'; did you mean 'epochs'"),
    "density outside 0-1": ("density = 0.5", "density = 1.5", 18, "above 0 and at most 1, not 1.5"),
    "bits outside range": ("= 2 }", "= 99 }", 25, "bits is 1 to 12"),
    "value by glob": ('"0*" = 3', '"0*" = "3"', 25, "must be a whole number, not '3'"),
    "inner value": ("epochs = 1", "epochs = -1", 21, "above 0"),
    "choice": ("density = 0.5", 'by = "lampp"', 18, "lamp"),
    "not TOML": ("lr = 0.05", "lr 0.05", 14, "not TOML"),
}


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_file_and_line(tiny: Path, old: str, new: str, line: int, said: str) -> None:
    text = tiny.read_text()
    assert text.count(old) == 1
    tiny.write_text(text.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        Recipe.load(tiny)
    assert f"{tiny}:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_every_wrong_key_of_a_step_is_named(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epoch = 2").replace("lr = 0.05", 'lr = "low"'))
    with pytest.raises(
        RecipeError, match=r"(?s):13: step 1: train.finetune: unknown key 'epoch'.*:14: .*must be a number"
    ):
        Recipe.load(tiny)


BUILT_WRONG = {
    "no module": ("tiny_project:net", "tiny_projet:net", 5, "'tiny_projet' cannot be imported"),
    "no function": ("tiny_project:net", "tiny_project:nett", 5, "no function 'nett'; did you mean 'net'"),
    "no colon": ("tiny_project:net", "tiny_project.net", 5, '"package.module:function"'),
    "another thing": ("tiny_project:net", "tiny_project:number", 5, "must return a torch.nn.Module, not int"),
    "fails": ("tiny_project:net", "tiny_project:broken", 5, "fails: ValueError: no such thing"),
    "argument": ("batches = 4", "batchs = 4", 9, "'batchs'; did you mean 'batches'?; its arguments: batches"),
    "another task": ("tiny_project:task", "tiny_project:number", 8, "[task]: "),
    "no weights": ('net"', 'net"\nweights = "none.safetensors"', 6, "no weights file 'none.safetensors'"),
}


@pytest.mark.parametrize(("old", "new", "line", "said"), BUILT_WRONG.values(), ids=BUILT_WRONG)
def test_what_cannot_be_built_is_named(tiny: Path, old: str, new: str, line: int, said: str) -> None:
    tiny.write_text(tiny.read_text().replace(old, new))
    recipe = Recipe.load(tiny)
    with pytest.raises(RecipeError) as caught:
        recipe.build_model()
        recipe.build_task()
    assert f"{tiny}:{line}: " in str(caught.value)
    assert said in str(caught.value)


def with_weights(tiny: Path, name: str) -> Recipe:
    tiny.write_text(tiny.read_text().replace('net"', f'net"\nweights = "{name}"'))
    return Recipe.load(tiny)


def trained() -> dict[str, torch.Tensor]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_weights_are_found_beside_the_recipe_or_in_the_data_folder(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = trained(), tmp_path_factory.mktemp("data")
    (data / "weights").mkdir()
    save_file(weights, data / "weights" / "net.safetensors")
    recipe = with_weights(tiny, "net.safetensors")
    with pytest.raises(RecipeError, match="DECOCT_DATA is not set"):
        monkeypatch.delenv("DECOCT_DATA", raising=False)
        recipe.build_model()
    monkeypatch.setenv("DECOCT_DATA", str(data))
    assert torch.equal(recipe.build_model().state_dict()["2.weight"], weights["2.weight"])
    save_file({name: 2 * tensor for name, tensor in weights.items()}, tiny.parent / "net.safetensors")
    assert torch.equal(recipe.build_model().state_dict()["2.weight"], 2 * weights["2.weight"])
    assert not torch.equal(recipe.build_model(weights=False).state_dict()["2.weight"], 2 * weights["2.weight"])


def test_pt_weights_hold_nothing_but_tensors(tiny: Path) -> None:
    weights = trained()
    torch.save(weights, tiny.parent / "net.pt")
    recipe = with_weights(tiny, "net.pt")
    assert torch.equal(recipe.build_model().state_dict()["0.weight"], weights["0.weight"])
    torch.save({"state": weights, "epoch": 3}, tiny.parent / "net.pt")
    with pytest.raises(RecipeError, match="holds more than tensors by name"):
        recipe.build_model()
    torch.save(Path("x"), tiny.parent / "net.pt")
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        recipe.build_model()


def test_weights_that_do_not_fit_are_named(tiny: Path) -> None:
    weights = trained()
    weights["0.weight"] = torch.zeros(16, 9)
    weights["head.weight"] = weights.pop("2.weight")
    save_file(weights, tiny.parent / "net.safetensors")
    with pytest.raises(RecipeError) as caught:
        with_weights(tiny, "net.safetensors").build_model()
    said = str(caught.value)
    assert f"{tiny}:6: [model]: " in said
    assert "1 missing: 2.weight" in said
    assert "1 unexpected: head.weight" in said
    assert "1 of another shape: 0.weight is (16, 9), the model's is (16, 8)" in said
    (tiny.parent / "net.safetensors").write_bytes(b"not that")
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        Recipe.load(tiny).build_model()


def test_a_recipe_without_model_or_task_serves_who_hands_them_over(tiny: Path) -> None:
    recipe = Recipe.parse('[[step]]\nmethod = "quantize.cast"\n')
    assert recipe.names() == ["quantize.cast"]
    with pytest.raises(RecipeError, match=r"no \[model\]"):
        recipe.build_model()
    with pytest.raises(RecipeError, match=r"no \[task\]"):
        recipe.build_task()


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read as a recipe: No such file"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "image.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read as a recipe"):
        Recipe.load(tmp_path / "image.toml")


def test_methods_of_ones_own_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own_method.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Nothing:\n"
        "    strength: float = 1.0\n\n    def plan(self, draft, task):\n        return []\n"
    )
    path = tmp_path / "own.toml"
    path.write_text('[[step]]\nmethod = "own_method:Nothing"\nstrength = 2\n')
    recipe = Recipe.load(path)
    assert recipe.methods()[0].strength == 2.0  # type: ignore[attr-defined]
    assert Recipe.from_methods(recipe.methods()).names() == ["own_method:Nothing"]


def test_the_schema_for_editors_names_methods_and_fields() -> None:
    schema = Recipe.json_schema()
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    magnitude = next(
        each
        for each in schema["$defs"].values()
        if each["properties"].get("method", {}).get("const") == "prune.magnitude"
    )
    assert {"density", "by", "retrain", "method"} <= set(magnitude["properties"])
    assert magnitude["required"] == ["method"]


def test_the_recipes_that_decoct_ships_are_valid() -> None:
    paths = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
    assert paths
    for path in paths:
        assert Recipe.load(path).methods()
