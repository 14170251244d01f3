"""Options of commands that can have their reconstruction workers on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ministream.cli.scan_options import with_options

if TYPE_CHECKING:
    from ministream.cluster import ClusterOptions

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("queue", "account", "walltime", "cores", "memory", "job_extra", "cluster_host", "start_timeout_s")
"""What `cluster_options` adds, beside where."""


def cluster_options(where: str, *, own: Collection[str] = ()) -> Callable[[F], F]:
    """Return a decorator that adds the option `where`, passed on as ``cluster``, and what is asked of it.

    Parameters
    ----------
    where : str
    own : collection of str
        What the command has for other ends, too, and adds itself: ``memory``.
    """
    memory = click.option("--memory", metavar="SIZE", help="slurm, pbs: memory of a job, such as 16GB.")

    def add(command: F) -> F:
        return with_options(
            command,
            click.option(
                where,
                "cluster",
                metavar="ADDRESS|slurm|pbs|local",
                help="Have the workers placed and watched by Dask: by the scheduler at ADDRESS "
                "(tls://HOST:PORT), in jobs of Slurm or PBS, or in processes of this host. Needs pip install "
                "'ministream[cluster]'.",
            ),
            click.option(
                "--partition", "--queue", "queue", help="slurm, pbs: partition or queue of the jobs."
            ),
            click.option(
                "--account", "--project", "account", help="slurm, pbs: whom the jobs are charged to."
            ),
            click.option("--walltime", metavar="HH:MM:SS", help="slurm, pbs: longest time of a job."),
            click.option(
                "--cores",
                type=click.IntRange(min=1),
                help="slurm, pbs: cores of a job, which its worker uses.",
            ),
            *([] if "memory" in own else [memory]),
            click.option(
                "--job-extra",
                multiple=True,
                metavar="DIRECTIVE",
                help="slurm, pbs: one more directive for the jobs, such as --constraint=skylake; repeatable.",
            ),
            click.option(
                "--cluster-host",
                metavar="HOST",
                help="Address of this host for the workers' hosts. [default: the one that leads to them]",
            ),
            click.option(
                "--start-timeout",
                "start_timeout_s",
                type=click.FloatRange(min=0, min_open=True),
                default=600.0,
                show_default=True,
                metavar="SECONDS",
                help="How long jobs may wait in the queue, or Dask workers be missing.",
            ),
        )

    return add


def taken_cluster_options(
    context: click.Context,
    options: dict[str, Any],
    *,
    workers: int,
    insecure: bool,
    own: Collection[str] = (),
) -> ClusterOptions | None:
    """Take what `cluster_options` has added out of `options`; return it, None where no cluster is asked for.

    What is the command's `own` is left where no cluster is asked for.

    Raises
    ------
    InputError
        They do not fit together.
    click.UsageError
        There is one without a cluster.
    """
    where = options.pop("cluster")
    names = [name for name in _NAMES if where is not None or name not in own]
    asked = {name: options.pop(name) for name in names}
    if where is None:
        option = next((name for name in names if is_given(context, name)), None)
        if option is not None:
            raise click.UsageError(f"{spelling(context, option)} is for workers on a cluster", context)
        return None
    from ministream.cluster import ClusterOptions

    if isinstance(asked["memory"], int):
        asked["memory"] = f"{asked['memory']}B"
    return ClusterOptions(
        where=where, workers=workers, host=asked.pop("cluster_host"), insecure=insecure, **asked
    )


def is_given(context: click.Context, name: str) -> bool:
    """Return whether a parameter has a value that is not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def spelling(context: click.Context, name: str) -> str:
    """Return how users write the parameter `name`."""
    spelled = next(parameter.opts for parameter in context.command.params if parameter.name == name)
    return max(spelled, key=len)


def repeated(context: click.Context, options: Mapping[str, Any]) -> list[str]:
    """Return the arguments that give another process those of `options` that are not at their defaults."""
    arguments: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in options or not is_given(context, name) or not isinstance(parameter, click.Option):
            continue
        for value in options[name] if parameter.multiple else [options[name]]:
            if parameter.is_flag:
                arguments += [parameter.opts[0]] if value else parameter.secondary_opts[:1]
            elif value is not None:
                # the other process may be in another folder
                arguments += [parameter.opts[0], str(value.absolute() if isinstance(value, Path) else value)]
    return arguments
