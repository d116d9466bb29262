"""The command line. Thin: parse, call, print. A command imports what it needs when it runs.

Exit codes: 0 done; 1 something is wrong with what was given, said in one message; 2 usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from decoct import __version__
from decoct.errors import DecoctError

STOPPED = 130


class Commands(TyperGroup):
    """Turns what is a user's or the machine's fault into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (DecoctError, OSError, MemoryError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                raise
            _leave(error)


def _leave(error: BaseException) -> None:
    """End with the message and the exit code of an error."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error
    from decoct import console

    console.complain(_message(error))
    raise typer.Exit(STOPPED if isinstance(error, KeyboardInterrupt) else 1) from error


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        on = "; go on with the same command and --resume" if "compress" in sys.argv else ""
        return f"stopped{on}"
    if isinstance(error, DecoctError):
        return f"error: {error}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error}; no half-written file was left"
    return f"error: not enough memory: {error}"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a trained model into a small file that runs, with an honest account of what was gained and lost.",
)

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .dct file.", metavar="FILE.dct")]
RecipeFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A recipe.", metavar="RECIPE.toml")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Skeleton = Annotated[
    Path | None,
    typer.Option("--recipe", exists=True, dir_okay=False, help="The recipe whose model a bare file belongs to."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"decoct {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", envvar="DECOCT_DEBUG", help="Show where an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compress(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the run; runs/NAME if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished step.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="For Accelerate: cpu, cuda, cuda:1, mps, ...")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="The same as --device cpu.")] = False,
    mixed_precision: Annotated[str | None, typer.Option(help="For Accelerate: no, fp16, bf16 or fp8.")] = None,
    results: Annotated[Path | None, typer.Option(help="Record the result in this folder as NAME.json.")] = None,
    name: Annotated[str | None, typer.Option(help="NAME of the recorded result; the recipe's if not given.")] = None,
) -> None:
    """Take a recipe's model through its steps: model.dct, model.onnx, rows.jsonl, report.html, log.

    Several processes or machines: accelerate launch -m decoct compress RECIPE.toml -o RUN
    """
    _accelerate("cpu" if cpu else device, mixed_precision)
    from decoct.extras import needed_for

    with needed_for("decoct compress"):
        from decoct import console, run
        from decoct.recipe import Recipe
        from decoct.report import reading, words
    asked = Recipe.load(recipe)
    if seed is not None:
        asked = asked.with_seed(seed)
    folder = out or Path("runs") / asked.name
    with console.progress():
        run.compress(asked.build_model(), asked, asked.build_task(), folder, resume)
    if not run.is_main_process():
        return
    console.stages(run.read_rows(folder / "rows.jsonl"))
    if results is not None:
        from decoct.report.results import record

        record(folder, name or asked.name, results, command=" ".join(["decoct", *sys.argv[1:]]))
    console.say(words.verdict(reading.read(folder)).sentence)
    console.say(f"file: {folder / 'model.dct'}\nreport: {folder / 'report.html'}")


def _accelerate(device: str | None, mixed_precision: str | None) -> None:
    """Tell Accelerate, which reads its settings from the environment, before it is imported."""
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif device is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    if mixed_precision is not None:
        os.environ["ACCELERATE_MIXED_PRECISION"] = mixed_precision


@app.command("eval")
def evaluate(file: File, recipe: RecipeFile, json: Json = False) -> None:
    """Score a file, decoded and run, on the recipe's test data."""
    from decoct.extras import needed_for

    with needed_for("decoct eval"):
        from decoct import console, run
        from decoct.recipe import Recipe
    asked = Recipe.load(recipe)
    task = asked.build_task()
    score, split = run.evaluate_file(file, asked.build_model(weights=False), task)
    size_bytes = file.stat().st_size
    if json:
        console.as_json(
            {
                "file": str(file),
                "score": score,
                "score_name": task.score_name,
                "score_split": split,
                "bytes": size_bytes,
            }
        )
    else:
        console.say(f"{task.score_name} {score:.6g} on {split}: {file}, {size_bytes:,} bytes, decoded and run")


@app.command()
def inspect(file: File, json: Json = False, recipe: Skeleton = None) -> None:
    """Show every tensor of a file: shape, coder, bytes, bits per weight, distance from its entropy."""
    from decoct import console, contents
    from decoct.file import open_file

    opened = open_file(file)
    if opened.bare and recipe is not None:
        opened.bind(_tensors(recipe))
    held = contents.inspect(opened)
    if json:
        typer.echo(held.to_json())
        return
    console.contents(held)
    if opened.bare and recipe is None:
        console.complain("a bare file has no names: give --recipe RECIPE.toml to see its tensors")


def _tensors(recipe: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of the tensors of a recipe's model."""
    from decoct.extras import needed_for

    with needed_for("--recipe"):
        from decoct.plan import Draft
        from decoct.recipe import Recipe
    tensors = Draft.of(Recipe.load(recipe).build_model(weights=False)).tensors()
    return [(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()]


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="MODEL.onnx | WEIGHTS.safetensors")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The .dct; beside the source if not given.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Every bit comes back (the default).")] = False,
    half: Annotated[bool, typer.Option("--half", help="Round weights to 16-bit floats.")] = False,
    bits: Annotated[
        int | None, typer.Option(help="Round weight matrices to N bits, a scale per output channel.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="Round weight matrices to multiples of S.")] = None,
    coder: Annotated[str, typer.Option(help="Of all tensors; auto takes the smallest for each.")] = "auto",
) -> None:
    """Code a model file that comes without source or data; of an .onnx the result runs."""
    from decoct import console
    from decoct.pack import pack
    from decoct.report.words import size, times

    modes = [name for name, asked in _modes(lossless, half, bits, step).items() if asked]
    if len(modes) > 1:
        raise typer.BadParameter(f"one of --lossless, --half, --bits, --step, not {len(modes)} of them")
    target = out or source.with_suffix(".dct")
    with console.progress():
        written = pack(source, target, mode=modes[0] if modes else "lossless", bits=bits, step=step, coder=coder)
    before = source.stat().st_size
    console.say(f"{source} {size(before)} -> {target} {size(written)}, {times(before / written)} smaller")


def _modes(lossless: bool, half: bool, bits: int | None, step: float | None) -> dict[Any, bool]:
    return {"lossless": lossless, "half": half, "bits": bits is not None, "step": step is not None}


@app.command()
def unpack(
    file: File,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A .safetensors or .onnx.", metavar="WEIGHTS.safetensors | MODEL.onnx")
    ],
) -> None:
    """Decode a file to plain .safetensors or .onnx."""
    from decoct import console
    from decoct.pack import unpack
    from decoct.report.words import size

    with console.progress():
        written = unpack(file, out)
    console.say(f"{file} {size(file.stat().st_size)} -> {out} {size(written)}")


@app.command()
def export(
    file: File,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")],
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    recipe: Skeleton = None,
) -> None:
    """Write a file's network for another runtime; a bare file needs the recipe that has its architecture."""
    from decoct import console
    from decoct.file import open_file
    from decoct.pack import unpack
    from decoct.report.words import size

    if to != "onnx":
        raise typer.BadParameter(f"--to is onnx, not {to!r}")
    if out.suffix != ".onnx":
        raise typer.BadParameter(f"--out ends in .onnx, not {out.name!r}")
    with console.progress():
        written = _export_bare(file, out, recipe) if recipe and open_file(file).bare else unpack(file, out)
    console.say(f"{file} -> {out} {size(written)}")


def _export_bare(file: Path, out: Path, recipe: Path) -> int:
    from decoct.extras import needed_for

    with needed_for("--recipe"):
        from decoct.export.onnx import to_onnx
        from decoct.file import replacing
        from decoct.recipe import Recipe
        from decoct.store import load_module
    asked = Recipe.load(recipe)
    module = load_module(file, asked.build_model(weights=False))
    data = to_onnx(module, asked.build_task().example).SerializeToString()
    with replacing(out) as target:
        target.write(data)
    return len(data)


@app.command()
def bench(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, metavar="A B ...", help=".dct, .onnx or .pt2.")
    ],
    threads: Annotated[int, typer.Option(min=1, help="Threads of each model.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Size of the first dimension where it is free.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time given to each model.")] = 5.0,
    json: Json = False,
) -> None:
    """Measure models side by side: latency (median, p10, p90, interleaved), peak memory, bytes."""
    from dataclasses import asdict

    from decoct import console
    from decoct.bench import bench

    found = bench(files, threads=threads, seconds=seconds, batch=batch)
    if json:
        console.as_json([asdict(one) for one in found])
    else:
        console.latencies(found)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method: its paper, fields and defaults.")] = None,
    json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """List the methods there are, or show one."""
    from decoct.extras import needed_for

    with needed_for("decoct methods"):
        from decoct import console
        from decoct.method import all_methods, find
        from decoct.recipe import Recipe
        from decoct.schema import described
    if schema:
        console.as_json(Recipe.json_schema())
        return
    found = {name: described(find(name))} if name else {name: described(kind) for name, kind in all_methods().items()}
    if json:
        console.as_json(found)
    elif name:
        console.method(name, found[name])
    else:
        console.methods({name: about["summary"] for name, about in found.items()})


@app.command()
def groups(
    model: Annotated[
        str, typer.Argument(metavar="RECIPE.toml | package.module:factory", help="Whose model to look at.")
    ],
    example: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Shape of its one input, instead of the task's example.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Cut half of each group and see whether it is right.")
    ] = False,
    json: Json = False,
) -> None:
    """List the groups of channels that can be cut from a model, and what cannot be cut, with the reason."""
    from dataclasses import asdict

    from decoct.extras import needed_for

    with needed_for("decoct groups"):
        from decoct import console
        from decoct.recipe import Recipe
        from decoct.survey import survey
    is_recipe = model.endswith(".toml")
    if example is None and not is_recipe:
        raise typer.BadParameter("a model that is no recipe needs the shape of its input: --example 1,3,32,32")
    given = None if example is None else _example(example)
    asked = Recipe.load(model) if is_recipe else Recipe.of_factory(model)
    with console.progress():
        found = survey(
            asked.build_model(weights=verify), asked.build_task().example if given is None else given, verify
        )
    if json:
        console.as_json(asdict(found))
    else:
        console.groups(found)


def _example(text: str) -> Any:
    """An input of a shape that is written as 1,3,32,32."""
    import torch

    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise typer.BadParameter(f"--example is the shape of an input, such as 1,3,32,32, not {text!r}")
    return torch.randn([int(size) for size in sizes], generator=torch.Generator().manual_seed(0))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(exists=True, file_okay=False, metavar="RUN...", help="Folders of runs.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one page that opens offline, with one or several runs side by side."""
    from decoct.extras import needed_for

    with needed_for("decoct report"):
        from decoct import console
        from decoct.report import page
    page.write(runs, out)
    console.say(str(out))


def main() -> None:
    """The ``decoct`` command."""
    app()
