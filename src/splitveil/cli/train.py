"""``splitveil train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, parse_options, progress_bar, trust
from splitveil.errors import UsageError

_IN_THE_SPEC = (
    *("data", "defense", "param", "model_param", "recipe", "set_", "limit", "seed", "task", "task_param"),
    *("weights", "freeze_tail", "size", "skip_corrupt", "stream"),
)
"""Options that a spec answers already."""


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run: new, or an earlier one to go on with.")],
    data: Annotated[
        str, typer.Option(help="'digits', a folder of parquet tables, or a folder with one sub-folder per class.")
    ] = "digits",
    defense: Annotated[
        str, typer.Option(help="See  splitveil list defenses; two together: ressfl+conditional_entropy.")
    ] = "cem",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Of the defense: weight=2; of the second: conditional_entropy.weight=2."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="See  splitveil list models, or package.module:function.")] = None,
    model_param: Annotated[list[str] | None, typer.Option(help="Of the model: width=0.25.")] = None,
    recipe: Annotated[str | None, typer.Option(help="tiny, quick or full; tiny for the digits, else quick.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Of the training: epochs=10, 'augment={\"crop\": 2}'.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A spec.json, in place of the options above.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most pictures to use.")] = None,
    task: Annotated[str, typer.Option(help="See  splitveil list tasks.")] = "classification",
    task_param: Annotated[
        list[str] | None, typer.Option(help="Of the task: class_weights=balanced, temperature=4.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="To start from: a run, or safetensors of head and tail, or of the uncut network."),
    ] = None,
    freeze_tail: Annotated[bool, typer.Option(help="Leave the cloud's part as the weights have it.")] = False,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels to resize and crop pictures to.")] = None,
    skip_corrupt: Annotated[bool, typer.Option(help="Leave out pictures that do not decode.")] = False,
    stream: Annotated[
        bool | None, typer.Option(help="Read pictures from a file; by default where memory is short.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and noise.")] = 0,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    devices: Annotated[int, typer.Option(help="How many train together, a process each.")] = 1,
    accelerator: Annotated[str | None, typer.Option(help="cpu or gpu; GPUs by default where there are any.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train a split model under a defense; the same command goes on with an interrupted run."""
    from splitveil.data.sources import guess_source
    from splitveil.defenses import load_defense
    from splitveil.experiments.api import default_recipe, make_spec
    from splitveil.experiments.devices import as_accelerator
    from splitveil.experiments.recipes import load_recipe
    from splitveil.experiments.training import train_run
    from splitveil.specs import PlugInSpec, RunSpec, TrainingSpec, parse, read_json

    if spec is not None:
        _refuse_both(context)
        chosen = parse(RunSpec, read_json(spec), str(spec))
    else:
        options = parse_options(param or [])
        load_defense(defense, options)
        plan = load_recipe(recipe or default_recipe(guess_source(data)[0]))
        changed = {**parse_options(set_ or []), **({"freeze_tail": True} if freeze_tail else {})}
        chosen = make_spec(
            data,
            model=model,
            model_kwargs=parse_options(model_param or []),
            defense=PlugInSpec(name=defense, params=options),
            recipe=plan,
            seed=seed,
            limit=limit,
            training=parse(TrainingSpec, {**plan.training.model_dump(), **changed}, "--set").model_dump(),
            task=PlugInSpec(name=task, params=parse_options(task_param)) if task_param else task,
            weights=weights,
            size=size,
            skip_corrupt=skip_corrupt,
            stream=stream,
        )
    label = out.name or chosen.defense.name
    trusted = trust(model)
    record = train_run(
        chosen,
        out,
        observer=progress_bar(label),
        device=device,
        trusted=trusted,
        devices=devices,
        accelerator=as_accelerator(accelerator),
    )
    result = record.evaluation
    if result is None:
        return
    if json_:
        echo_json({"run": str(out), **result.model_dump(mode="json")})
    else:
        score = result.score.result
        typer.echo(
            f"{out}: {result.score.name} {100 * score.mean:.1f} % "
            f"[{100 * score.low:.1f}, {100 * score.high:.1f}] on {score.n} pictures, "
            f"{result.payload_bytes} bytes per release"
        )
        typer.echo(f"next: splitveil attack {out}")


def _refuse_both(context: typer.Context) -> None:
    """A spec says all of the run; an option beside it would be passed over in silence."""
    given = [name for name in _IN_THE_SPEC if _was_given(context, name)]
    if given:
        named = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
        raise UsageError(f"expected either --spec or {named}, got both: change the spec, or leave it out")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
