"""`mistudio recipes`: the named settings there are, and what each of them sets."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import options

app = typer.Typer(help="Named settings of training runs.", no_args_is_help=True)


@app.callback()
def recipes() -> None:
    """Named settings of training runs."""


@app.command("list")
def list_recipes(home: options.Home = None, as_json: options.Json = False) -> None:
    """List the recipes and presets, and whether each recipe's model lies under the model root."""
    from mistudio_cli.output import emit, show, table
    from mistudio_cli.recipes import GRANULARITY, RECIPES, SELECTIVITY
    from mistudio_core.home import Home

    root = Home.at(home).models
    here = {name: bool(r.model_name) and (root / r.model_name).is_dir() for name, r in RECIPES.items()}
    if as_json:
        found = [
            {"name": n, "model_name": r.model_name, "summary": r.summary, "in_model_root": here[n]}
            for n, r in RECIPES.items()
        ]
        presets = {"granularity": dict(GRANULARITY), "selectivity": {n: dict(v) for n, v in SELECTIVITY.items()}}
        emit({"recipes": found, "presets": presets})
        return
    rows = [(n, r.model_name or "any", r.summary, "yes" if here[n] else "") for n, r in RECIPES.items()]
    widths = [(n, f"{w} features") for n, w in GRANULARITY.items()]
    fires = [(n, f"k {v['k']}, or sparsity_coeff {v['sparsity_coeff']}") for n, v in SELECTIVITY.items()]
    show(
        table("Recipes", ("recipe", "model", "when to take it", "in the model root"), rows),
        table("Presets: --granularity", ("preset", "sets"), widths),
        table("Presets: --selectivity", ("preset", "sets"), fires),
    )


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="Name of the recipe.", show_default=False)],
    home: options.Home = None,
    as_json: options.Json = False,
) -> None:
    """Show every setting of a recipe, and whether its model lies under the model root."""
    from mistudio_cli.output import emit, facts_table, say, show
    from mistudio_cli.recipes import recipe
    from mistudio_core.home import Home

    found = recipe(name)
    here = bool(found.model_name) and (Home.at(home).models / found.model_name).is_dir()
    if as_json:
        body = {"name": name, "summary": found.summary, "fields": dict(found.fields), "note": found.note}
        emit({**body, "in_model_root": here})
        return
    show(facts_table({"recipe": name, "when": found.summary, **found.fields}))
    for line in (found.note, "Its model lies under the model root." if here else ""):
        if line:
            say(line)
