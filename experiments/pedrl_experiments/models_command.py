"""`pedrl models`: fetch models, and say which are here. Heavy imports happen inside commands."""

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from pedrl_agents.models import (
    SOURCES,
    WEIGHTS,
    add,
    added,
    model_folder,
    models_home,
    remove,
    sha256_of,
)
from pedrl_sandbox.errors import PedrlError

models = tyro.extras.SubcommandApp()
console = Console(markup=False, highlight=False, soft_wrap=True)


@models.command(name="add")
def add_model(name: Positional[str]) -> None:
    """Fetch a model from the package index, check it and convert it; once is enough.

    Args:
        name: of the model: `smollm2`.
    """
    folder = add(name, console.print)
    console.print(
        f"{name}: {folder}\nnow, for example: pedrl evaluate --suite starter --policy {name}, or "
        f"pedrl compare --suite starter --base {name}"
    )


@models.command(name="list")
def list_models() -> None:
    """List the models that can be added, and which are here."""
    table = Table("model", "what it is", "licence", "here")
    for name, source in SOURCES.items():
        here = "yes" if added(name) else f"no: pedrl models add {name}"
        table.add_row(name, source.title, source.licence, here)
    Console(highlight=False).print(table)
    console.print(f"folder: {models_home()}\nA base may also be a folder or a hub id, owner/name.")


@models.command
def show(name: Positional[str]) -> None:
    """Print where a model comes from and where it lies; check that it is whole.

    Args:
        name: of the model.
    """
    folder, source, record = model_folder(name), SOURCES[name], added(name)
    facts = {
        "model": source.title,
        "licence": source.licence,
        "package": source.package,
        "file": source.member,
        "sha256 of that file": source.sha256,
    }
    if record is None:
        facts["here"] = f"no: pedrl models add {name}"
    else:
        facts["here"] = str(folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        facts["size"] = f"{size / 2**20:.0f} MiB"
        weights = folder / WEIGHTS
        found = sha256_of(weights) if weights.is_file() else "none"
        if found != record["weights"]:
            raise PedrlError(
                f"{weights} is damaged (sha256 {found}, converted as {record['weights']}): "
                f"`pedrl models remove {name}`, then add it again"
            )
        facts["sha256 of the weights"] = f"{found}, as converted"
    console.print("\n".join(f"{key}: {value}" for key, value in facts.items()))


@models.command(name="remove")
def remove_model(name: Positional[str]) -> None:
    """Delete an added model.

    Args:
        name: of the model.
    """
    there = remove(name)
    console.print(f"{name} removed" if there else f"{name} is not here: nothing to remove")
