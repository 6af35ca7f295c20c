"""The options of a model that fairseq configures by argparse, as a dataclass (for Hydra and for checkpoints)."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from dataclasses import field, make_dataclass
from typing import Any, Optional

from omegaconf import OmegaConf

from el_fairseq.internals import options_of


def dataclass_of(
    add_args: Callable[[ArgumentParser], None],
    architecture: Callable[[Any], None],
    name: str,
    base: type,
    from_task: Iterable[str] = (),
) -> type:
    """Make a dataclass with a field for each option that a model adds to a parser.

    Fields that ``architecture``, the model's base architecture, fills default to None, "not given": what they become
    depends on the architecture that is chosen and on other options, as it does on the command line. So do those in
    ``from_task``, which follow the task. The others keep their defaults.

    Args:
        add_args: of the model.
        architecture: the model's base architecture, a function that fills a namespace.
        name: of the dataclass.
        base: a dataclass, which it extends.
        from_task: names of options.

    Returns:
        The dataclass.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    add_args(parser)
    filled = Namespace(**dict.fromkeys(from_task))
    architecture(filled)
    fields = []
    for action in options_of(parser):
        default = None if hasattr(filled, action.dest) else action.default
        fields.append((action.dest, _type_of(action), field(default=default, metadata={"help": action.help})))
    return make_dataclass(name, fields, bases=(base,), namespace={"__module__": base.__module__})


def _type_of(action: Action) -> Any:
    if action.nargs == 0:  # store_true
        return Optional[bool]
    if action.type in (int, float):
        return Optional[action.type]  # type: ignore[name-defined]
    return Optional[str] if action.type in (None, str) else Any  # lists are parsed by functions


def given(config: Any) -> Namespace:
    """The options in ``config``, a namespace or of OmegaConf, that are not None."""
    options = config if OmegaConf.is_config(config) else vars(config)
    return Namespace(**{name: value for name, value in options.items() if value is not None})


def fills(architecture: Callable[[Any], None], also: dict[str, Any]) -> Callable[[Any], None]:
    """Let an architecture fill options that are there but None, too.

    Args:
        architecture: a function that fills a namespace.
        also: options that it does not know, with their defaults.

    Returns:
        An architecture.
    """

    def fill(config: Any) -> None:
        options = given(config)
        architecture(options)
        vars(options).update({name: default for name, default in also.items() if not hasattr(options, name)})
        for name, value in vars(options).items():
            setattr(config, name, value)

    return fill
